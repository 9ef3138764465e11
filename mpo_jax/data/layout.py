"""Which sequences share a packed row, and which of a run's sizes does a batch take?"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from mpo_jax.data.chat import Example, TokenPair

SideName = Literal["source", "target"]
SIDES: tuple[SideName, SideName] = ("source", "target")

# The released code pads a row's chosen and rejected sequence to a common multiple of 8, and its pooling averages over that.
AUTHORS_MULTIPLE = 8


class Size(NamedTuple):
    """Packed rows of each side of a microbatch; 0 for a side that is not there."""

    source: int
    target: int


@dataclasses.dataclass(frozen=True)
class Shape:
    """Length of a side's packed rows, and the capacity of their list of scored positions."""

    tokens: int
    answers: int


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Everything static about a run's batches. `sizes` rise, and the last holds any batch; `source` is None for data without a
    dominant side."""

    source: Shape | None
    target: Shape
    sizes: tuple[Size, ...]

    def size_for(self, needed: Size) -> Size:
        """The smallest size with room for this many packed rows."""
        fitting = [size for size in self.sizes if size.source >= needed.source and size.target >= needed.target]
        assert fitting, f"{needed} in {self.sizes}: are these the data's own shapes?"
        return fitting[0]


def side_of(row: Example | None, side: SideName) -> TokenPair | None:
    if row is None:
        return None
    return row.source if side == "source" else row.target


def split_rows(rows: Sequence[Example | None], microbatches: int) -> list[Sequence[Example | None]]:
    """The rows of each microbatch, in order."""
    assert len(rows) % microbatches == 0, f"{len(rows)} rows in {microbatches} microbatches"
    count = len(rows) // microbatches
    return [rows[start : start + count] for start in range(0, len(rows), count)]


def slot_lengths(
    rows: Sequence[Example | None], side: SideName, pooling: str = "mean", padded_length: int | None = None
) -> dict[int, int]:
    """Slot -> how many positions its sequence takes in a packed row: its tokens, and with "mean_padded" its padding too."""
    lengths = {}
    for i, row in enumerate(rows):
        if (pair := side_of(row, side)) is not None:
            chosen, rejected = (len(pair.prompt) + len(answer) for answer in (pair.chosen, pair.rejected))
            if pooling == "mean_padded":
                padded = padded_length or round_up(max(chosen, rejected), AUTHORS_MULTIPLE)
                assert padded >= max(chosen, rejected), f"padded_length {padded} for a sequence of {max(chosen, rejected)}"
                chosen = rejected = padded
            lengths |= {2 * i: chosen, 2 * i + 1: rejected}
    return lengths


def first_fit(lengths: Mapping[int, int], tokens: int) -> list[list[int]]:
    """The slots of each packed row of `tokens` positions: longest first, each into the first row with room for it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for slot in sorted(lengths, key=lambda slot: (-lengths[slot], slot)):
        length = lengths[slot]
        assert length <= tokens, f"a sequence of {length} positions in rows of {tokens}"
        for row, left in enumerate(room):
            if left >= length:
                rows[row].append(slot)
                room[row] -= length
                break
        else:
            rows.append([slot])
            room.append(tokens - length)
    return rows


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the sequences of one batch lie: for each side that is there, of each microbatch, the slots of each packed row and
    the positions that each slot takes."""

    size: Size
    slots: dict[SideName, list[list[list[int]]]]
    lengths: dict[SideName, list[dict[int, int]]]


def layout_of(
    rows: Sequence[Example | None],
    shapes: Shapes,
    *,
    microbatches: int = 1,
    pooling: str = "mean",
    padded_length: int | None = None,
) -> Layout:
    """By `first_fit`, in the smallest of `shapes.sizes` that holds every microbatch."""
    slots, lengths, needed = {}, {}, dict.fromkeys(SIDES, 0)
    for side in SIDES:
        if (shape := getattr(shapes, side)) is not None:
            lengths[side] = [slot_lengths(part, side, pooling, padded_length) for part in split_rows(rows, microbatches)]
            slots[side] = [first_fit(part, shape.tokens) for part in lengths[side]]
            needed[side] = max(map(len, slots[side]))
    return Layout(shapes.size_for(Size(**needed)), slots, lengths)


def efficiency(
    batches: Sequence[Sequence[Example | None]], shapes: Shapes, *, microbatches: int = 1, pooling: str = "mean"
) -> dict[SideName, float]:
    """Of each side that is there, the share of all positions of `batches` that hold a token of a sequence."""
    sides: list[SideName] = [side for side in SIDES if getattr(shapes, side) is not None]
    tokens, positions = dict.fromkeys(sides, 0), dict.fromkeys(sides, 0)
    for rows in batches:
        size = layout_of(rows, shapes, microbatches=microbatches, pooling=pooling).size
        for side in sides:
            tokens[side] += sum(slot_lengths(rows, side).values())
            positions[side] += microbatches * getattr(size, side) * getattr(shapes, side).tokens
    return {side: tokens[side] / positions[side] for side in sides}


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
