"""How probable is a text as the translation of another? A translation model tells, by the log-probabilities of its tokens.

NLLB is asked by CTranslate2's `score_batch`; a server that returns the log-probabilities of a prompt (`echo` and `logprobs` of
OpenAI's completions, as vLLM has them) by the words of `clients.translators.server`.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from mpo_jax.clients.languages import language as known_language
from mpo_jax.clients.translators import nllb
from mpo_jax.clients.translators.server import PROMPT
from mpo_jax.errors import InputError
from mpo_jax.generation import completions
from mpo_jax.generation.server import NO_KEY


class Aligner(Protocol):
    """A translation model that scores."""

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that determines a score, as JSON."""
        ...

    def logps(self, pairs: Sequence[tuple[str, str]], language: str, into: str) -> list[list[float]]:
        """Of each (text, its meaning): the log-probabilities of the meaning's tokens after the text and one another, in nats.
        `language` is that of the texts, `into` that of the meanings."""
        ...


@dataclasses.dataclass(frozen=True)
class Nllb:
    """A folder converted for CTranslate2, on this machine's CPU. As in transformers' labels, the token of the language and the
    end token are scored too."""

    folder: Path

    @property
    def settings(self) -> dict[str, Any]:
        """Errors: no such model."""
        return {**nllb.identity(self.folder), "longest": nllb.LONGEST}

    def logps(self, pairs: Sequence[tuple[str, str]], language: str, into: str) -> list[list[float]]:
        model, tokenizer = self._loaded
        first, second = known_language(language).nllb, known_language(into).nllb
        texts = [[*nllb.marked(tokenizer, text, first), "</s>"] for text, _ in pairs]
        meanings = [nllb.marked(tokenizer, meaning, second) for _, meaning in pairs]  # the end token is added there
        found = model.score_batch(texts, meanings, max_batch_size=nllb.BATCH)
        return [list(one.log_probs) for one in found]

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return nllb.load(self.folder)


@dataclasses.dataclass(frozen=True)
class ServedAligner:
    """A general model at the address `url`, under the name `model`. It reads the request for a translation and the meaning as one
    text, whose end is no token of its own."""

    url: str
    model: str
    key: str = dataclasses.field(default=NO_KEY, repr=False)
    concurrency: int = 32

    @property
    def settings(self) -> dict[str, Any]:
        return {"served model": self.model, "prompt": PROMPT}

    def logps(self, pairs: Sequence[tuple[str, str]], language: str, into: str) -> list[list[float]]:
        """Errors: a server that cannot be asked, or that does not tell what a prompt's tokens are worth."""
        openai = completions.package()
        name = known_language(into).name

        def one(pair: tuple[str, str]) -> list[float]:
            asked = PROMPT.replace("{target}", name).replace("{text}", pair[0]) + "\n\n"
            reply = client.completions.create(
                model=self.model, prompt=asked + pair[1], max_tokens=1, temperature=0, echo=True, logprobs=1
            )
            told = reply.choices[0].logprobs
            if told is None or not told.token_logprobs or not told.text_offset:
                raise InputError(f"The server {self.url} tells no log-probabilities of a prompt: serve the model with vLLM.")
            places = zip(told.text_offset, told.token_logprobs, strict=True)
            return [float(logp) for at, logp in places if len(asked) <= at < len(asked + pair[1]) and logp is not None]

        with openai.OpenAI(base_url=self.url, api_key=self.key) as client:
            try:
                with concurrent.futures.ThreadPoolExecutor(self.concurrency) as pool:
                    return list(pool.map(one, pairs))
            except openai.OpenAIError as error:
                reason = " ".join(str(error).split())[:300].replace(self.key, "***")
                raise InputError(f"The server {self.url} gives no scores ({reason}): run the command again.") from None
