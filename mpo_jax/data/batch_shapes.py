"""Which shapes does a run compile?

XLA compiles one program for each shape, so a run keeps to a few. The number of packed rows is fixed; what differs between batches
is how long those rows must be. `shapes_of` chooses the shapes once, from the batches that the run will meet.

Further shape letters in this file: W the packed parts of a batch (policy, reference, ...), E the batches examined, C the two
capacities (tokens and scored positions).
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from mpo_jax.data.chat import Example
from mpo_jax.data.row_layout import (
    Capacity,
    RowShapes,
    Shapes,
    Span,
    balanced,
    longest,
    needed,
    read_by,
    round_up,
    spans,
    split_rows,
)
from mpo_jax.types import Reads

MULTIPLE = 8  # T and A are multiples of it
MOST_SHAPES = 4
# Each further shape costs a compilation, so it must save the positions of this many batches.
SHAPE_SAVES = 1.5
# More packed rows means shorter ones, which some attention kernels process faster. This share of extra positions is accepted.
MORE_ROWS_COST = 0.04
TRIED_ROWS, TRIED_BATCHES = 16, 100  # how many row counts are tried, and on how many batches
CANDIDATES = 12  # row lengths of each part that are tried for a shape


def shapes_of(
    batches: Sequence[Sequence[Example | None]],
    policy: Reads,
    reference: Reads,
    *,
    examples: Iterable[Example] = (),
    microbatches: int = 1,
    shards: int = 1,
    padded_length: int | None = None,
) -> Shapes:
    """The shapes that need the fewest positions over `batches`; give `packing.pack` the same options. All batches have the same
    length; a short one is filled up with None.

    S is a multiple of `shards`, the number of pieces into which the mesh cuts packed rows. Up to `MOST_SHAPES` shapes hold these
    batches, and a last, larger one holds any batch that can be made of their rows and of `examples`.
    """
    parts = {name: reads for name, reads in read_by(policy, reference).items() if reads.anything}
    rows = [*(row for batch in batches for row in batch if row is not None), *examples]
    needs = [_Needs.of(batches, rows, reads, microbatches, shards, padded_length) for reads in parts.values()]
    chosen = _choose(np.stack([part.needs_EC for part in needs]), np.asarray([part.rows for part in needs]))
    shapes = [RowShapes(part.rows, (*(shape[w] for shape in chosen), part.always)) for w, part in enumerate(needs)]
    return Shapes(**dict(zip(parts, shapes, strict=True)))


@dataclasses.dataclass(frozen=True)
class _Needs:
    """What the packed rows of one part need over all batches."""

    rows: int
    needs_EC: np.ndarray  # the same for all microbatches of a batch
    always: Capacity

    @classmethod
    def of(
        cls,
        batches: Sequence[Sequence[Example | None]],
        examples: Iterable[Example],
        reads: Reads,
        microbatches: int,
        shards: int,
        padded_length: int | None,
    ) -> "_Needs":
        parts = [[spans(part, reads, padded_length) for part in split_rows(rows, microbatches)] for rows in batches]
        most = max(len(part) for batch in parts for part in batch)

        def needs(rows: int, of: Sequence[Sequence[Sequence[Span]]]) -> np.ndarray:
            capacities = [[needed(balanced(part, rows)) for part in batch] for batch in of]
            return np.asarray([[round_up(max(n), MULTIPLE) for n in zip(*batch, strict=True)] for batch in capacities])

        pieces = np.unique(np.geomspace(1, -(-most // shards), TRIED_ROWS).round().astype(int)).tolist()
        cost = {shards * n: shards * n * needs(shards * n, parts[:TRIED_BATCHES]).sum() for n in pieces}
        rows = max(rows for rows in cost if cost[rows] <= (1 + MORE_ROWS_COST) * min(cost.values()))
        # Each sequence goes to the emptiest row, which holds no more than the mean of what is packed so far.
        length = longest(examples, reads, padded_length)
        tokens = round_up(length + -(-(most - 1) * length // rows), MULTIPLE)
        return cls(rows, needs(rows, parts), Capacity(tokens, tokens))


def _choose(needs_WEC: np.ndarray, rows_W: np.ndarray) -> list[list[Capacity]]:
    """The shapes in order of cost, each with a capacity for every part: chosen greedily, then each chosen once more given the
    others."""

    def costs(shapes: Sequence[np.ndarray]) -> np.ndarray:
        """Positions and scored positions of each batch in the cheapest shape that holds it, (E,)."""
        each = [
            np.where((needs_WEC <= shape_WC[:, None]).all(axis=(0, 2)), (rows_W * shape_WC.sum(axis=1)).sum(), np.inf)
            for shape_WC in shapes
        ]
        return np.min(each, axis=0)

    largest_WC = needs_WEC.max(axis=1)
    shapes, batch = [largest_WC], float((rows_W * largest_WC.sum(axis=1)).sum())
    candidates = list(_candidates(needs_WEC))
    while len(shapes) < MOST_SHAPES:
        best = min(candidates, key=lambda shape: costs([*shapes, shape]).sum())
        if costs(shapes).sum() - costs([*shapes, best]).sum() < SHAPE_SAVES * batch:
            break
        shapes.append(best)
    for i in range(1, len(shapes)):
        others = shapes[:i] + shapes[i + 1 :]
        shapes[i] = min(candidates, key=lambda shape: costs([*others, shape]).sum())
    shapes.sort(key=lambda shape: (rows_W * shape.sum(axis=1)).sum())
    return [[Capacity(*map(int, capacity)) for capacity in shape] for shape in shapes]


def _candidates(needs_WEC: np.ndarray):
    """Shapes whose rows are as long as some batches need, with as many scored positions as those batches have, (W, C) each."""
    lengths = [np.unique(np.quantile(need, np.linspace(0, 1, CANDIDATES), method="higher")) for need in needs_WEC[:, :, 0]]
    for tokens in itertools.product(*lengths):
        held_E = (needs_WEC[:, :, 0] <= np.asarray(tokens)[:, None]).all(axis=0)
        if held_E.any():
            yield needs_WEC[:, held_E].max(axis=1)
