"""What do all rows of a data set say, without their texts in memory?

Of each row there are a few numbers: its languages, the number of its prompt, of its source pair and of its target pair. Rows with
the same texts have the same numbers. A row with its texts is read when it is asked for.
"""

import array
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpo_jax.data.lazy_sequence import LazySequence
from mpo_jax.data.rows import DIGEST, PairText, Row, text_digest

METHODS = ("given", "detected", "none")
AS_IS, TARGET, SOURCE = range(3)  # views of a row: both sides; the target alone; the source side as the target of a row
_NUMBERS = ("method", "source_language", "target_language", "source_prompt", "target_prompt", "source_pair", "target_pair")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Of the N rows of a data set, int32 (N,) each. Languages are numbers of `languages`; prompts, with white space normalised,
    and pairs are numbered as they first occur; -1 = no source. `pair_digest`: uint8 (pairs, 16), of their texts. `ids`: uint8,
    all ids in UTF-8; the n-th ends at byte `id_ends[n]`. `places`: int64 (N, 2), the bytes of each row in its file, if it has a
    line of its own there."""

    languages: tuple[str, ...]
    method: np.ndarray
    source_language: np.ndarray
    target_language: np.ndarray
    source_prompt: np.ndarray
    target_prompt: np.ndarray
    source_pair: np.ndarray
    target_pair: np.ndarray
    pair_digest: np.ndarray
    ids: np.ndarray
    id_ends: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, rows: Iterable[tuple[Row, tuple[int, int]]]) -> "Columns":
        """`rows` come with their places."""
        numbers = {name: array.array("i") for name in _NUMBERS}
        languages: dict[str, int] = {}
        prompts: dict[bytes, int] = {}
        pairs: dict[bytes, int] = {}
        ids, ends, places = bytearray(), array.array("q"), array.array("q")
        for row, place in rows:
            numbers["method"].append(METHODS.index(row.language_method))
            for side, text in (("source", row.source), ("target", row.target)):
                known = (-1, -1, -1) if text is None else (
                    languages.setdefault(text.language, len(languages)),
                    prompts.setdefault(text_digest(" ".join(text.prompt.split())), len(prompts)),
                    pairs.setdefault(text_digest(text.prompt, text.chosen, text.rejected), len(pairs)),
                )  # fmt: skip
                for name, number in zip(("language", "prompt", "pair"), known, strict=True):
                    numbers[f"{side}_{name}"].append(number)
            ids += row.id.encode()
            ends.append(len(ids))
            places.extend(place)
        arrays: dict[str, Any] = {name: np.frombuffer(of, np.int32) for name, of in numbers.items()}
        digests = np.frombuffer(b"".join(pairs), np.uint8).reshape(-1, DIGEST)
        at = np.frombuffer(places, np.int64).reshape(-1, 2)
        found = np.frombuffer(bytes(ids), np.uint8), np.frombuffer(ends, np.int64)
        return cls(tuple(languages), pair_digest=digests, ids=found[0], id_ends=found[1], places=at, **arrays)

    def save(self, folder: Path) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            np.save(folder / field.name, _as_bytes(value) if field.name == "languages" else value, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "Columns":
        read: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            read[field.name] = np.load(folder / f"{field.name}.npy", mmap_mode="r", allow_pickle=False)
        read["languages"] = tuple(json.loads(bytes(read["languages"])))
        return cls(**read)

    def id_of(self, row: int) -> str:
        start = int(self.id_ends[row - 1]) if row else 0
        return bytes(self.ids[start : int(self.id_ends[row])]).decode()


@dataclasses.dataclass(frozen=True, eq=False)
class RowTable(LazySequence[Row]):
    """Some rows of a data set, or views of them, in an order. `read` gives a row of the data set with its texts."""

    columns: Columns
    read: Callable[[int], Row]
    number: np.ndarray  # int64, into the rows of the data set
    view: np.ndarray  # int8: `AS_IS`, `TARGET` or `SOURCE`

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "RowTable":
        """Of rows that are in memory anyway."""
        if isinstance(rows, RowTable):
            return rows
        return cls.whole(Columns.of((row, (0, 0)) for row in rows), rows.__getitem__)

    @classmethod
    def whole(cls, columns: Columns, read: Callable[[int], Row]) -> "RowTable":
        count = len(columns.method)
        return cls(columns, read, np.arange(count), np.zeros(count, np.int8))

    def __len__(self) -> int:
        return len(self.number)

    def item(self, at: int) -> Row:
        row, view = self.read(int(self.number[at])), int(self.view[at])
        if view == TARGET:
            return dataclasses.replace(row, source=None)
        if view == SOURCE:
            assert row.source is not None
            return Row(_of_source(row.id), None, row.source, row.language_method)
        return row

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def take(self, at: np.ndarray) -> "RowTable":
        """The rows at these places, or those where a mask is true."""
        return dataclasses.replace(self, number=self.number[at], view=self.view[at])

    def seen_as(self, view: int) -> "RowTable":
        """The same rows under a view."""
        return dataclasses.replace(self, view=np.full(len(self), view, np.int8))

    def followed_by(self, other: "RowTable") -> "RowTable":
        """Rows of the same data set."""
        assert other.columns is self.columns
        number, view = np.concatenate([self.number, other.number]), np.concatenate([self.view, other.view])
        return dataclasses.replace(self, number=number, view=view)

    @property
    def ids(self) -> "Ids":
        return Ids(self)

    @property
    def languages(self) -> np.ndarray:
        """The target's language of each row, a number of `columns.languages`."""
        return self._target(self.columns.source_language, self.columns.target_language)

    @property
    def source_languages(self) -> np.ndarray:
        return self._source(self.columns.source_language)

    @property
    def prompts(self) -> np.ndarray:
        """The number of what the rows of one question share: the dominant prompt, or the target's where there is none."""
        source = self._source(self.columns.source_prompt)
        return np.where(source < 0, self._target(self.columns.source_prompt, self.columns.target_prompt), source)

    @property
    def source_pairs(self) -> np.ndarray:
        """-1 = none."""
        return self._source(self.columns.source_pair)

    @property
    def target_pairs(self) -> np.ndarray:
        return self._target(self.columns.source_pair, self.columns.target_pair)

    def digest(self) -> str:
        """Of texts and languages, in order."""
        found = hashlib.blake2b(json.dumps(self.columns.languages).encode(), digest_size=DIGEST)
        numbers, inverse = np.unique(np.stack([self.source_pairs, self.target_pairs]), return_inverse=True)
        found.update(self.columns.pair_digest[numbers].tobytes())
        for part in (numbers, inverse, self.source_languages, self.languages):
            found.update(np.ascontiguousarray(part, np.int64).tobytes())
        return found.hexdigest()

    def _source(self, numbers: np.ndarray) -> np.ndarray:
        return np.where(self.view == AS_IS, numbers[self.number], -1)

    def _target(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        return np.where(self.view == SOURCE, source[self.number], target[self.number])


@dataclasses.dataclass(frozen=True)
class Ids(LazySequence[str]):
    """The ids of rows."""

    rows: RowTable

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, at: int) -> str:
        name = self.rows.columns.id_of(int(self.rows.number[at]))
        return _of_source(name) if self.rows.view[at] == SOURCE else name


def first_id(ids: Sequence[str], mask: np.ndarray) -> str | None:
    """The id of the first row for which this is true."""
    at = np.flatnonzero(mask)
    return ids[int(at[0])] if len(at) else None


def languages_of(*tables: RowTable) -> list[str]:
    """The target languages of all these rows, in alphabetical order."""
    return sorted({table.columns.languages[code] for table in tables for code in np.unique(table.languages).tolist()})


def sides(rows: RowTable, pairs: np.ndarray) -> Iterator[tuple[str, str, PairText]]:
    """Of each of these numbers of pairs, ascending: id, side and texts of the first row that has it."""
    at, side = _first(rows, pairs)
    for row, is_target in zip(at.tolist(), side.tolist(), strict=True):
        found = rows.read(row)
        text = found.target if is_target else found.source
        assert text is not None
        yield found.id, ("source", "target")[is_target], text


def _first(rows: RowTable, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of the data set with each of these pairs, and on which side it has it."""
    numbers = np.stack([rows.columns.source_pair, rows.columns.target_pair], axis=1).ravel()
    known, first = np.unique(numbers, return_index=True)
    at = first[np.searchsorted(known, pairs)]
    return at // 2, at % 2


def _of_source(name: str) -> str:
    return f"{name}, source side"


def _as_bytes(names: Sequence[str]) -> np.ndarray:
    return np.frombuffer(json.dumps(names).encode(), np.uint8)
