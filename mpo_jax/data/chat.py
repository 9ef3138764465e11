"""How does text become token ids, under a chat format?

A sequence is a prompt part and a response part, tokenised separately and then joined. No token crosses the boundary, so the
answer is found by its position, never by a token id: it is everything after the prompt part, the end token included.
"""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from tqdm import tqdm

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
    """Rows -> examples whose every sequence (prompt and response) has at most `max_length` tokens.

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

    def side(row: Row, name: str, text: PairText) -> TokenPair:
        return _Side(f"row '{row.id}', {name} side", text, tokenizer, form).fit(max_length, truncation)

    return [
        Example(row.id, row.target.language, row.source and side(row, "source", row.source), side(row, "target", row.target))
        for row in tqdm(rows, desc="tokenising", unit="row", delay=2, leave=False, disable=None)
    ]


class _Side:
    """The untruncated token ids of one side of a row."""

    def __init__(self, where: str, text: PairText, tokenizer: "PreTrainedTokenizerFast", form: ChatFormat):
        self.where = where
        texts = [form.prompt(text.prompt), form.response(text.chosen), form.response(text.rejected)]
        encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        self.prompt, self.chosen, self.rejected = (np.asarray(ids, np.int32) for ids in encoded["input_ids"])
        offsets = [np.asarray(spans, np.int32).reshape(-1, 2) for spans in encoded["offset_mapping"]]
        if len(self.prompt) == 0:
            raise InputError(f"{where}: the prompt has no tokens, so nothing predicts the first token of an answer.")
        for key, answer, spans_T2 in (("chosen", text.chosen, offsets[1]), ("rejected", text.rejected, offsets[2])):
            if not np.any(spans_T2[:, 0] < len(form.content(answer))):
                raise InputError(f"{where}: the {key} answer has no tokens under this tokenizer: take the row out.")
        # A token that straddles the format and the message belongs to the format.
        start, stop = len(form.before), len(texts[0]) - len(form.between)
        self.is_message = (offsets[0][:, 0] >= start) & (offsets[0][:, 1] <= stop)

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
        message = int(self.is_message.sum())
        header = len(self.prompt) - message
        room = limit - header
        if room < 2:
            raise self._too_small(limit, f"its chat format alone takes {header}")
        keep = min(message, max(room // 2, room - longest))
        nth_message_token = np.cumsum(self.is_message) * self.is_message
        return self.prompt[~self.is_message | (nth_message_token > message - keep)], room - keep

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
