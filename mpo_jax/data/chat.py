"""How does text become token ids, under a chat format?

A sequence is a prompt part and a response part, tokenised separately and then joined. No token crosses the boundary, so the
answer is found by its position, never by a token id: it is everything after the prompt part, the end token included.
"""

import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from tqdm import tqdm

from mpo_jax.data.ahead import ahead
from mpo_jax.data.rows import PairText, Row
from mpo_jax.errors import InputError, check_choice
from mpo_jax.files import hub
from mpo_jax.files.paths import path_of, read_locally
from mpo_jax.types import ChatFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TRUNCATIONS = ("keep_header", "official", "error")


@dataclasses.dataclass(frozen=True)
class TokenPair:
    """One side of a row as int32 ids of rank 1: a prompt (format included) and its two answers, each never empty.
    The counts say how many tokens truncation took from each."""

    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    truncated_prompt: int = 0
    truncated_chosen: int = 0
    truncated_rejected: int = 0


@dataclasses.dataclass(frozen=True)
class Example:
    """A tokenised row; `language` is the target's. `mismatch` and `parallel` are there where a method reads them
    (see `types.Reads` and `data.pair_views`)."""

    id: str
    language: str
    source: TokenPair | None
    target: TokenPair
    mismatch: TokenPair | None = None
    parallel: TokenPair | None = None


def load_tokenizer(folder: str | Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of a Hugging Face model folder. Errors: no such folder, no tokenizer in it."""
    path = path_of(folder)
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise InputError(f"{path} has no tokenizer.json: give the folder of a Hugging Face model with its tokenizer files.")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read on import; otherwise it advises to install PyTorch
    from transformers import AutoTokenizer

    try:
        with read_locally(path, (*hub.CONFIG_FILES, *hub.TOKENIZER_FILES)) as local:
            tokenizer = AutoTokenizer.from_pretrained(local, local_files_only=True)
        tokenizer.name_or_path = str(path)
    except (OSError, ValueError) as error:
        raise InputError(f"The tokenizer in {path} cannot be loaded ({str(error).splitlines()[0]}): check its files.") from None
    if not tokenizer.is_fast:  # only those know which characters a token came from
        raise InputError(f"The tokenizer in {path} has no tokenizer.json: convert it to a fast tokenizer first.")
    return cast("PreTrainedTokenizerFast", tokenizer)


def tokenize(
    rows: Sequence[Row],
    tokenizer: "PreTrainedTokenizerFast",
    form: ChatFormat,
    *,
    max_length: int,
    truncation: str = "keep_header",
) -> list[Example]:
    """Rows -> examples, by the rules of `token_pairs`. Pairs of the same texts are tokenised once and share their arrays."""
    places: dict[tuple[str, str, str], SidePlace] = {}
    for row in rows:
        for name, text in (("source", row.source), ("target", row.target)):
            if text is not None:
                places.setdefault(_texts(text), SidePlace(row.id, name, text))
    made = token_pairs(places.values(), tokenizer, form, max_length=max_length, truncation=truncation)
    pairs = dict(zip(places, tqdm(made, **{**PROGRESS, "total": len(places)}), strict=True))
    return [
        Example(row.id, row.target.language, row.source and pairs[_texts(row.source)], pairs[_texts(row.target)]) for row in rows
    ]


PROGRESS: dict[str, Any] = {"desc": "tokenising", "unit": "pair", "delay": 2, "leave": False, "disable": None}
AT_ONCE = 512  # pairs that are tokenised together


class SidePlace(NamedTuple):
    """One side of a row."""

    row_id: str
    side: str
    text: PairText


def token_pairs(
    sides: Iterable[SidePlace],
    tokenizer: "PreTrainedTokenizerFast",
    form: ChatFormat,
    *,
    max_length: int,
    truncation: str = "keep_header",
) -> Iterator[TokenPair]:
    """The tokens of each side, in order; every sequence (prompt and response) has at most `max_length` tokens. The
    tokenizer works on all cores, on the next sides while these are taken.

    What does not fit is cut by one of three rules (`TRUNCATIONS`); both answers of a side always share one prompt.

    * "keep_header": the chat format around the user's message is kept. The message and the longer answer share the remaining
      tokens: each may use half of them and whatever the other leaves free. So only what takes more than half is cut, and no more
      than needed: the message at its start (a question usually ends with what is asked), an answer at its end.
    * "official": the rule of the authors' code (LLaMA-Factory's `infer_seqlen`): the end of the prompt is cut, starting with the
      assistant header.
    * "error": an `InputError` that names the row and its length.

    Under every rule a cut answer has no end token: an end token there would teach the model to stop in the middle.
    Errors (`InputError`), naming row and side: a limit with no room for one token of each; an answer without a single token.
    """
    check_choice("truncation", truncation, TRUNCATIONS)

    def encoded(part: list[SidePlace]) -> list[_Side]:
        texts = [text for _, _, text in part]
        wanted = [
            t for text in texts for t in (form.prompt(text.prompt), form.response(text.chosen), form.response(text.rejected))
        ]
        distinct = list(dict.fromkeys(wanted))
        ids = dict(zip(distinct, _ids(distinct, tokenizer), strict=True))
        sequences = [ids[text] for text in wanted]
        threes = zip(part, sequences[::3], sequences[1::3], sequences[2::3], strict=True)
        return [_Side(place, prompt, chosen, rejected, tokenizer, form) for place, prompt, chosen, rejected in threes]

    sides = iter(sides)
    parts = iter(lambda: list(itertools.islice(sides, AT_ONCE)), [])
    for part in ahead(map(encoded, parts), 1):
        for side in part:
            yield side.fit(max_length, truncation)


def _texts(pair: PairText) -> tuple[str, str, str]:
    return pair.prompt, pair.chosen, pair.rejected


def _ids(texts: Sequence[str], tokenizer: "PreTrainedTokenizerFast") -> list[np.ndarray]:
    """As the tokenizer's own call without special tokens, which would also make a list of each token's characters."""
    core = tokenizer.backend_tokenizer
    core.no_padding()
    core.no_truncation()
    if core.encode_special_tokens != tokenizer.split_special_tokens:
        core.encode_special_tokens = tokenizer.split_special_tokens
    return [np.asarray(found.ids, np.int32) for found in core.encode_batch_fast(texts, add_special_tokens=False)]


class _Side:
    """The untruncated token ids of one side of a row."""

    def __init__(
        self,
        place: SidePlace,
        prompt: np.ndarray,
        chosen: np.ndarray,
        rejected: np.ndarray,
        tokenizer: "PreTrainedTokenizerFast",
        form: ChatFormat,
    ):
        self.where = f"row '{place.row_id}', {place.side} side"
        self.prompt, self.chosen, self.rejected = prompt, chosen, rejected
        self._text, self._tokenizer, self._form = place.text, tokenizer, form
        if len(self.prompt) == 0:
            raise InputError(f"{self.where}: the prompt has no tokens, so nothing predicts the first token of an answer.")
        for key, answer, ids in (("chosen", place.text.chosen, chosen), ("rejected", place.text.rejected, rejected)):
            if len(ids) > len(form.end.encode()):  # the end cannot be all of them
                continue
            if not np.any(self._spans(form.response(answer))[:, 0] < len(form.content(answer))):
                raise InputError(f"{self.where}: the {key} answer has no tokens under this tokenizer: take the row out.")

    def _spans(self, text: str) -> np.ndarray:
        """The characters of each token of a text, int32 (tokens, 2), from and up to."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return np.asarray(encoded["offset_mapping"], np.int32).reshape(-1, 2)

    @property
    def _is_message(self) -> np.ndarray:
        """Of each token of the prompt. One that straddles the format and the message belongs to the format."""
        text, form = self._form.prompt(self._text.prompt), self._form
        spans = self._spans(text)
        return (spans[:, 0] >= len(form.before)) & (spans[:, 1] <= len(text) - len(form.between))

    def fit(self, limit: int, truncation: str) -> TokenPair:
        longest = max(len(self.chosen), len(self.rejected))
        total = len(self.prompt) + longest
        prompt, answer = self.prompt, longest
        if total > limit:
            if truncation == "error":
                raise InputError(
                    f"{self.where} has {total} tokens, more than max_length={limit}: raise max_length, or choose another "
                    "truncation."
                )
            prompt, answer = self._official(longest, limit) if truncation == "official" else self._keep_header(longest, limit)
        chosen, rejected = self.chosen[:answer], self.rejected[:answer]
        removed = (len(self.prompt) - len(prompt), len(self.chosen) - len(chosen), len(self.rejected) - len(rejected))
        assert min(len(prompt), len(chosen), len(rejected)) > 0 and len(prompt) + max(len(chosen), len(rejected)) <= limit
        return TokenPair(prompt, chosen, rejected, *removed)

    def _keep_header(self, longest: int, limit: int) -> tuple[np.ndarray, int]:
        is_message = self._is_message
        message = int(is_message.sum())
        header = len(self.prompt) - message
        room = limit - header
        if room < 2:
            raise self._too_small(limit, f"its chat format alone takes {header}")
        keep = min(message, max(room // 2, room - longest))
        nth_message_token = np.cumsum(is_message) * is_message
        return self.prompt[~is_message | (nth_message_token > message - keep)], room - keep

    def _official(self, longest: int, limit: int) -> tuple[np.ndarray, int]:
        if longest * 2 < limit:
            answer = limit
        elif len(self.prompt) * 2 < limit:
            answer = limit - len(self.prompt)
        else:
            answer = math.floor(limit * (longest / (len(self.prompt) + longest)))
        answer = min(answer, longest)
        if not 0 < answer < limit:
            raise self._too_small(limit, f"prompt and answer have {len(self.prompt)} and {longest}")
        return self.prompt[: limit - answer], answer

    def _too_small(self, limit: int, reason: str) -> InputError:
        return InputError(f"{self.where}: max_length={limit} leaves no room for the message or an answer ({reason}): raise it.")
