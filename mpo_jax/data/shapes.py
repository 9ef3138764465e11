"""Which shapes does a run compile?

The compiler makes one program a shape, so a run has few: a length T of packed rows for each side, and two or three sizes, that
is numbers of packed rows. `shapes_of` chooses them once, from the batches that will come.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from mpo_jax.data.chat import Example
from mpo_jax.data.layout import SIDES, Shape, Shapes, SideName, Size, first_fit, round_up, side_of, slot_lengths, split_rows

MULTIPLE = 8  # T and A are multiples of it

# Packed rows are one to three times as long as the longest sequence, in eighths of it. Real data has many sequences a little
# over half the longest, which leave the other half of a row empty; much longer rows would be paid for in attention.
LADDER = range(8, 25)

# Two sides of unequal T take two forwards, whose backward passes hold two gradient trees: that must save this share of positions.
TWO_LENGTHS_SAVE = 0.05

# A second size takes a second compilation: that must save the positions of this many batches.
TWO_SIZES_SAVE = 8


def shapes_of(
    batches: Sequence[Sequence[Example | None]],
    *,
    microbatches: int = 1,
    shards: int = 1,
    pooling: str = "mean",
    padded_length: int | None = None,
) -> Shapes:
    """The shapes with the fewest positions over `batches`, which must hold every example of a run; `packing.pack` takes
    them with the same options. Batches of equal length; None is the filling of a short one.

    T: one for each side, or one for both where that costs less than 5 % more: sides of equal T go through the model together.
    Sizes: one for most of these batches where that saves the positions of eight, one for all of them, and one for any batch of
    these examples: first fit puts T // longest sequences or more into every row but its last. Each is a multiple of `shards`,
    the pieces that the mesh cuts packed rows into. A = T - (shortest prompt): no packed row can hold more scored tokens.
    """
    sides = [_Side.of(batches, side, microbatches, shards, pooling, padded_length) for side in SIDES]
    sides = [side for side in sides if side.longest]
    ladders = [side.ladder for side in sides]
    separate = min(_plan(sides, tokens) for tokens in itertools.product(*ladders))
    common = min(_plan(sides, (tokens,) * len(sides)) for tokens in max(ladders))
    _, tokens, sizes = common if common[0] <= (1 + TWO_LENGTHS_SAVE) * separate[0] else separate
    sizes = (*sizes, tuple(side.always(T) for side, T in zip(sides, tokens, strict=True)))
    shapes = [Shape(T, round_up(T - side.shortest_prompt, MULTIPLE)) for side, T in zip(sides, tokens, strict=True)]
    source = shapes[0] if len(sides) == 2 else None
    absent = () if source else (0,)
    return Shapes(source, shapes[-1], tuple(dict.fromkeys(Size(*absent, *size) for size in sizes)))


@dataclasses.dataclass(frozen=True)
class _Side:
    """What planning needs to know of one side of the batches."""

    lengths: list[list[dict[int, int]]]  # of each microbatch of each batch, `slot_lengths`
    slots: int  # sequences of a microbatch
    longest: int  # 0 where the side is not there
    shortest_prompt: int
    shards: int
    cache: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        batches: Sequence[Sequence[Example | None]],
        side: SideName,
        microbatches: int,
        shards: int,
        pooling: str,
        padded_length: int | None,
    ) -> "_Side":
        pairs = [side_of(row, side) for rows in batches for row in rows if row is not None]
        assert len({pair is None for pair in pairs}) == 1, f"a {side} side in some rows only"
        lengths = [
            [slot_lengths(part, side, pooling, padded_length) for part in split_rows(rows, microbatches)] for rows in batches
        ]
        longest = max((length for parts in lengths for part in parts for length in part.values()), default=0)
        shortest = min((len(pair.prompt) for pair in pairs if pair is not None), default=0)
        return cls(lengths, 2 * len(batches[0]) // microbatches, longest, shortest, shards)

    @property
    def ladder(self) -> list[int]:
        """The candidates for T."""
        return sorted({round_up(self.longest * eighths // 8, MULTIPLE) for eighths in LADDER})

    def needed(self, tokens: int) -> np.ndarray:
        """The packed rows that each batch needs, (batches,): its microbatches share one size."""
        if tokens not in self.cache:
            most = [max(len(first_fit(part, tokens)) for part in parts) for parts in self.lengths]
            self.cache[tokens] = np.asarray([round_up(rows, self.shards) for rows in most])
        return self.cache[tokens]

    def always(self, tokens: int) -> int:
        """The packed rows that hold any microbatch."""
        return round_up(-(-self.slots // (tokens // self.longest)), self.shards)


Plan = tuple[int, tuple[int, ...], tuple[tuple[int, ...], ...]]


def _plan(sides: Sequence[_Side], tokens: tuple[int, ...]) -> Plan:
    """(positions over all batches, T of each side, one or two sizes) with the fewest positions for these T."""
    needed_NK = np.stack([side.needed(T) for side, T in zip(sides, tokens, strict=True)], axis=1)
    most = tuple(needed_NK.max(axis=0).tolist())
    N, batch = len(needed_NK), int(np.dot(most, tokens))

    def with_usual(usual: tuple[int, ...]) -> Plan:
        fits = int(np.all(needed_NK <= np.asarray(usual)[None, :], axis=1).sum())
        return fits * int(np.dot(usual, tokens)) + (N - fits) * batch, tokens, (usual, most)

    two = min(with_usual(usual) for usual in itertools.product(*(np.unique(column).tolist() for column in needed_NK.T)))
    return two if two[0] <= (N - TWO_SIZES_SAVE) * batch else (N * batch, tokens, (most,))
