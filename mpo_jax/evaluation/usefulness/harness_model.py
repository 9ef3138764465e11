"""How does lm-evaluation-harness ask our engine? Its `LM`: likelihoods through the fused unembedding, answers by the engine.

All processes run the harness alike and ask the same, in the same order; the harness believes each to be alone.
"""

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpo_jax.data.conversation import Conversation
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.errors import InputError
from mpo_jax.evaluation.usefulness.likelihoods import Continuation, Likelihoods
from mpo_jax.evaluation.usefulness.plain_text import PlainText
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.engine import Engine
from mpo_jax.generation.records import read_responses
from mpo_jax.generation.run import generate

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]

POSITIONS = 2048  # that a model is taken to read whose config does not say, as in the harness
MAX_NEW_TOKENS = 256  # of an answer where the task does not say, as in the harness
UNDETERMINED = "und"  # the language of a text, in ISO 639's words: the harness does not say
KNOWN = {"do_sample", "temperature", "top_p", "top_k", "until", "max_gen_toks"}  # of a task's generation_kwargs


@dataclasses.dataclass
class Cut:
    """How many contexts were too long to be read whole, so that only their last tokens were."""

    contexts: int = 0


@dataclasses.dataclass(frozen=True)
class Asking:
    """What the harness asks of one model. Answers are kept in `folder`, so that none is written twice; likelihoods are not.
    `max_new_tokens`: of an answer where the task does not say. `max_length`: tokens that the model reads at once."""

    engine: Engine
    conversation: Conversation
    folder: Path
    max_length: int
    max_new_tokens: int = MAX_NEW_TOKENS
    cut: Cut = dataclasses.field(default_factory=Cut)

    @property
    def text(self) -> PlainText:
        return PlainText(self.conversation)

    @functools.cached_property
    def _likelihoods(self) -> Likelihoods:
        return Likelihoods(self.engine)

    def likelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """Of (context, continuation); a context that is too long loses its first tokens. Errors: those of `Likelihoods`."""
        asked = []
        for context, text in pairs:
            room = max(self.max_length + 1 - len(text), 1)
            self.cut.contexts += len(context) > room
            asked.append(Continuation(tuple(context[-room:]), tuple(text)))
        return [(found.logp, found.greedy) for found in self._likelihoods(asked)]

    def answers(self, contexts: Sequence[str], decoding: Decoding) -> list[str]:
        """An answer to each context; one that occurs several times gets as many samples, or the same answer where nothing is
        drawn. Errors: no room for a context; those of `generate`."""
        times = collections.Counter(contexts)
        if decoding.temperature:
            decoding = dataclasses.replace(decoding, samples=max(times.values()))
        room = self.max_length - decoding.max_new_tokens
        if room < 1:
            raise InputError(
                f"A task asks for {decoding.max_new_tokens} new tokens, but the model reads at most {self.max_length}, its "
                "prompt included: give a smaller --max-new-tokens, or leave the task out."
            )
        self.cut.contexts += sum(len(self.text.ids(context)) > room for context in times)
        engine = self.engine.otherwise(decoding, PlainText(self.conversation, room))
        prompts = {context: Prompt(_digest(context), UNDETERMINED, (Message("user", context),)) for context in times}
        folder = self.folder / _name(decoding)
        generate(list(prompts.values()), engine, folder, samples=decoding.samples)
        texts = {(record.id, record.sample): record.text for record in read_responses(folder)}
        seen, found = collections.Counter[str](), []
        for context in contexts:
            sample = seen[context] if decoding.temperature else 0
            seen[context] += 1
            found.append(texts[prompts[context].id, sample])
        return found


def decoding_of(options: dict[str, Any]) -> Decoding:
    """Of a task's generation options, as the harness normalises them. Errors: options that the engine does not have."""
    if odd := sorted(options.keys() - KNOWN):
        raise InputError(
            f"A task asks for the generation option '{odd[0]}', which the engine does not have: leave it out of the task's "
            f"generation_kwargs, which may have {', '.join(sorted(KNOWN))}."
        )
    limit = options["max_gen_toks"]
    if not options["do_sample"]:
        return Decoding(max_new_tokens=limit)
    temperature, top_p = (float(options.get(name) or 1.0) for name in ("temperature", "top_p"))
    return Decoding(temperature=temperature, top_p=top_p, top_k=max(int(options.get("top_k") or 0), 0), max_new_tokens=limit)


def shortened(text: str, stops: Sequence[str]) -> str:
    """Up to the first of these strings. The engine ends an answer at its end token or limit alone, so a string ends it here."""
    for stop in filter(None, stops):
        text = text.partition(stop)[0]
    return text


def rendered(conversation: Conversation, turns: Sequence[dict[str, str]], *, answer: bool) -> str:
    """A conversation of the harness in the chat format, up to where the model's `answer` begins; otherwise the last of the turns
    is the beginning of that answer. Errors: those of `Conversation.render`."""
    messages = [Message(turn["role"], turn["content"]) for turn in turns]  # pyright: ignore[reportArgumentType]
    if answer:
        return conversation.render(messages)
    return conversation.render(messages[:-1]) + messages[-1].content


def harness_model(asking: Asking) -> "TemplateLM":
    """The harness's view of it."""
    from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
    from lm_eval.models.utils import normalize_gen_kwargs  # pyright: ignore[reportMissingImports]
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # pyright: ignore[reportMissingImports]

    class EngineModel(TemplateLM):
        @property
        def eot_token_id(self) -> int:
            return asking.text.stop_ids[0]

        @property
        def prefix_token_id(self) -> int:
            return asking.text.first_id

        @property
        def max_length(self) -> int:
            return asking.max_length

        @property
        def tokenizer_name(self) -> str:
            return asking.conversation.tokenizer.name_or_path.replace("/", "__")

        def chat_template(self, chat_template: bool | str = False) -> str:
            return repr(asking.conversation.settings) if chat_template else ""

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return rendered(asking.conversation, chat_history, answer=add_generation_prompt)

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            assert not kwargs, f"the harness asks for {kwargs}"
            return asking.text.ids(string, add_special_tokens)

        def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
            return asking.likelihoods([(context, text) for _, context, text in requests])

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            sizes = {"prefix_token": self.prefix_token_id, "max_seq_len": self.max_length, "context_len": 1}
            texts = [self.tok_encode(request.args[0]) for request in requests]
            parts = [[make_disjoint_window(pair) for pair in get_rolling_token_windows(ids, **sizes)] for ids in texts]
            found = iter(asking.likelihoods([pair for part in parts for pair in part]))
            return [sum(next(found)[0] for _ in part) for part in parts]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            options: list[dict[str, Any]] = [
                dict(normalize_gen_kwargs(request.args[1], asking.max_new_tokens)) for request in requests
            ]
            together: dict[Decoding, list[int]] = {}
            for number, given in enumerate(options):
                together.setdefault(decoding_of(given), []).append(number)
            found = {}
            for decoding, numbers in together.items():
                texts = asking.answers([requests[number].args[0] for number in numbers], decoding)
                found |= dict(zip(numbers, texts, strict=True))
            return [shortened(found[number], given["until"]) for number, given in enumerate(options)]

    return EngineModel()


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _name(decoding: Decoding) -> str:
    """Of the folder of the answers that are drawn so."""
    drawn = f"t{decoding.temperature:g}-p{decoding.top_p:g}-k{decoding.top_k}" if decoding.temperature else "greedy"
    return f"{drawn}-{decoding.max_new_tokens}"
