"""Where are the tokens of a million rows? In a few arrays on disk; an example is a view of them, made when it is asked for."""

import array
import dataclasses
import functools
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.lazy_sequence import LazySequence
from mpo_jax.types import PAIR_KINDS

DIGEST = 16  # bytes
_FIELDS = ("ends", "cut", "digests")
_TOKENS = "tokens"


def digest(pair: TokenPair) -> bytes:
    """Names a pair by its token ids."""
    parts = (pair.prompt, pair.chosen, pair.rejected)
    lengths = np.asarray([len(ids) for ids in parts], np.int64)
    return hashlib.blake2b(b"".join([lengths.tobytes(), *(ids.tobytes() for ids in parts)]), digest_size=DIGEST).digest()


@dataclasses.dataclass(frozen=True)
class Pairs:
    """P pairs. `tokens`: int32, those of each pair's prompt, chosen and rejected answer, one after the other. `ends`: int64
    (P, 3), where each of the three ends. `cut`: int32 (P, 3), how many tokens truncation took. `digests`: uint8 (P, 16), as
    `digest` gives them."""

    tokens: np.ndarray
    ends: np.ndarray
    cut: np.ndarray
    digests: np.ndarray

    @classmethod
    def of(cls, pairs: Iterable[TokenPair], file: IO[bytes]) -> "Pairs":
        """Their tokens are written to `file` as they come, and are not in the result."""
        ends, cut, digests, at = array.array("q"), array.array("i"), bytearray(), 0
        for pair in pairs:
            for ids in (pair.prompt, pair.chosen, pair.rejected):
                file.write(ids.astype("<i4", copy=False).tobytes())
                at += len(ids)
                ends.append(at)
            cut.extend((pair.truncated_prompt, pair.truncated_chosen, pair.truncated_rejected))
            digests += digest(pair)
        return cls(
            np.zeros(0, np.int32),
            np.frombuffer(ends, np.int64).reshape(-1, 3),
            np.frombuffer(cut, np.int32).reshape(-1, 3),
            np.frombuffer(digests, np.uint8).reshape(-1, DIGEST),
        )

    @classmethod
    def in_memory(cls, pairs: Iterable[TokenPair]) -> "Pairs":
        file = io.BytesIO()
        made = cls.of(pairs, file)
        return dataclasses.replace(made, tokens=np.frombuffer(file.getvalue(), "<i4"))

    @classmethod
    def written(cls, pairs: Iterable[TokenPair], folder: Path) -> "Pairs":
        """Mapped from files in `folder`, so that they are never all in memory."""
        with (folder / _TOKENS).open("wb") as file:
            made = cls.of(pairs, file)
        for name in _FIELDS:
            np.save(folder / name, getattr(made, name), allow_pickle=False)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> "Pairs":
        arrays: dict[str, Any] = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _FIELDS}
        return cls(np.memmap(folder / _TOKENS, "<i4", "r"), **arrays)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, pair: int) -> TokenPair:
        prompt, chosen, rejected = self.ends[pair].tolist()
        start = int(self.ends[pair - 1, 2]) if pair else 0
        ids = np.asarray(self.tokens[start:rejected])
        parts = ids[: prompt - start], ids[prompt - start : chosen - start], ids[chosen - start :]
        return TokenPair(*parts, *self.cut[pair].tolist())

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of prompt, chosen and rejected answer, int64 (P, 3)."""
        return np.diff(self.ends.ravel(), prepend=0).reshape(-1, 3)


@dataclasses.dataclass(frozen=True)
class Examples(LazySequence[Example]):
    """N examples. `language`: of each the number of one of `names`. `pairs`: for each kind of `types.PAIR_KINDS` that they have,
    (prompts, answers): int (N,) each, the numbers of the pairs from which prompt and answers come, -1 = none. Only mismatched
    ones differ; they are cut at the end to `max_length` tokens."""

    table: Pairs
    ids: Sequence[str]
    names: Sequence[str]
    language: np.ndarray
    pairs: dict[str, tuple[np.ndarray, np.ndarray]]
    max_length: int = 0

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Examples":
        """Of examples that are in memory anyway."""
        if isinstance(examples, Examples):
            return examples
        found, places = [], np.full((len(PAIR_KINDS), len(examples)), -1)
        for i, example in enumerate(examples):
            for k, kind in enumerate(PAIR_KINDS):
                if (pair := getattr(example, kind)) is not None:
                    places[k, i] = len(found)
                    found.append(pair)
        names: dict[str, int] = {}
        language = np.asarray([names.setdefault(example.language, len(names)) for example in examples], np.int32)
        pairs = {kind: (at, at) for kind, at in zip(PAIR_KINDS, places, strict=True) if (at >= 0).any()}
        return cls(Pairs.in_memory(found), [example.id for example in examples], list(names), language, pairs)

    def __len__(self) -> int:
        return len(self.language)

    def item(self, at: int) -> Example:
        made: dict[str, Any] = {kind: self._pair(kind, at) for kind in PAIR_KINDS}
        return Example(self.ids[at], self.names[int(self.language[at])], **made)

    def _pair(self, kind: str, at: int) -> TokenPair | None:
        prompts, answers = self.pairs.get(kind, (None, None))
        if prompts is None or answers is None or prompts[at] < 0:
            return None
        pair = self.table[int(prompts[at])]
        if prompts[at] == answers[at]:
            return pair
        other, room = self.table[int(answers[at])], self.room(len(pair.prompt))
        return TokenPair(pair.prompt, other.chosen[:room], other.rejected[:room])

    def room(self, prompt: Any) -> Any:
        """Tokens that an answer of a mismatched pair may have."""
        return np.maximum(1, self.max_length - prompt)

    def with_pairs(self, kind: str, prompts: np.ndarray, answers: np.ndarray, max_length: int = 0) -> "Examples":
        return dataclasses.replace(self, pairs=self.pairs | {kind: (prompts, answers)}, max_length=max_length or self.max_length)

    def lengths(self, kind: str) -> np.ndarray:
        """Tokens of prompt, chosen and rejected answer of the pairs of one kind, int64 (N, 3); 0 where there is none."""
        if kind not in self.pairs:
            return np.zeros((len(self), 3), np.int64)
        prompts, answers = self.pairs[kind]
        found = self.table.lengths[answers]
        if kind == "mismatch":
            found[:, 0] = self.table.lengths[prompts, 0]
            cut = prompts != answers
            found[cut, 1:] = np.minimum(found[cut, 1:], self.room(found[cut, :1]))
        found[prompts < 0] = 0
        return found

    def prompts(self, kind: str) -> np.ndarray:
        """A number for the tokens of each prompt of one kind, int64 (N,); prompts of the same tokens have the same, -1 = none."""
        of_pair = self.pairs[kind][0]
        numbers: dict[bytes, int] = {}
        found = np.full(len(self.table) + 1, -1)
        for pair in np.unique(of_pair[of_pair >= 0]).tolist():
            found[pair] = numbers.setdefault(self.table[pair].prompt.tobytes(), len(numbers))
        return found[of_pair]

    @functools.cached_property
    def contents(self) -> str:
        """A digest of languages and tokens, in order: the same for a file and for a data set of the hub with the same rows."""
        named = hashlib.blake2b(digest_size=8)
        of_pair = [*map(bytes, self.table.digests), b"none"]
        names = [name.encode() for name in self.names]
        plain = [self.pairs[kind][0].tolist() if kind in self.pairs else [-1] * len(self) for kind in PAIR_KINDS]
        for i, (language, *numbers) in enumerate(zip(self.language.tolist(), *plain, strict=True)):
            parts = [of_pair[number] for number in numbers]
            if "mismatch" in self.pairs and (pair := self._pair("mismatch", i)) is not None:
                parts[PAIR_KINDS.index("mismatch")] = digest(pair)
            named.update(b"".join([names[language], *parts]))
        return f"{len(self)} with digest {named.hexdigest()}"
