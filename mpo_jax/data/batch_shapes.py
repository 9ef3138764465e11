"""Which shapes does a run compile?

The compiler makes one program a shape, so a run has few. The number of packed rows is fixed; batches differ in how long those
rows have to be. `shapes_of` chooses once, from the batches that will come.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from mpo_jax.data.chat import Example
from mpo_jax.data.row_layout import Plan, Room, Shapes, Span, balanced, needed, read_by, round_up, spans, split_rows
from mpo_jax.types import Reads

MULTIPLE = 8  # T and A are multiples of it
MOST_SHAPES = 4
# A shape takes a compilation: it must save the positions of this many batches.
SHAPE_SAVES = 1.5
# More packed rows are shorter ones, which some attention kernels pay less for. That may cost this share of positions.
MORE_ROWS_COST = 0.04
TRIED_ROWS, TRIED_BATCHES = 16, 100  # numbers of rows that are tried, and on how many batches
CANDIDATES = 12  # lengths of each model's rows that are tried for a shape


def shapes_of(
    batches: Sequence[Sequence[Example | None]],
    policy: Reads,
    reference: Reads,
    *,
    microbatches: int = 1,
    shards: int = 1,
    padded_length: int | None = None,
) -> Shapes:
    """The shapes with the fewest positions over `batches`, which must hold every example of a run; `packing.pack` takes them
    with the same options. Batches of equal length; None is the filling of a short one.

    S is a multiple of `shards`, the pieces that the mesh cuts packed rows into. Up to `MOST_SHAPES` shapes hold these batches,
    and a last one any batch of these examples, in case another comes.
    """
    parts = {name: reads for name, reads in read_by(policy, reference).items() if reads.anything}
    models = [_Model.of(batches, reads, microbatches, shards, padded_length) for reads in parts.values()]
    needs_KNR = np.stack([model.needs_NR for model in models])
    chosen = _choose(needs_KNR, np.asarray([model.rows for model in models]))
    plans = [Plan(model.rows, (*(shape[k] for shape in chosen), model.always)) for k, model in enumerate(models)]
    return Shapes(**dict(zip(parts, plans, strict=True)))


@dataclasses.dataclass(frozen=True)
class _Model:
    """What one model's packed rows need over all batches."""

    rows: int
    needs_NR: np.ndarray  # (batches, 2): the tokens and answers of `Room`, the same for all microbatches of a batch
    always: Room

    @classmethod
    def of(
        cls,
        batches: Sequence[Sequence[Example | None]],
        reads: Reads,
        microbatches: int,
        shards: int,
        padded_length: int | None,
    ) -> "_Model":
        parts = [[spans(part, reads, padded_length) for part in split_rows(rows, microbatches)] for rows in batches]
        most = max(len(part) for batch in parts for part in batch)
        longest = max(span.length for batch in parts for part in batch for span in part)

        def needs(rows: int, of: Sequence[Sequence[Sequence[Span]]]) -> np.ndarray:
            rooms = [[needed(balanced(part, rows)) for part in batch] for batch in of]
            return np.asarray([[round_up(max(n), MULTIPLE) for n in zip(*batch, strict=True)] for batch in rooms])

        pieces = np.unique(np.geomspace(1, -(-most // shards), TRIED_ROWS).round().astype(int)).tolist()
        cost = {shards * n: shards * n * needs(shards * n, parts[:TRIED_BATCHES]).sum() for n in pieces}
        rows = max(rows for rows in cost if cost[rows] <= (1 + MORE_ROWS_COST) * min(cost.values()))
        # The emptiest row holds no more than the mean of what is packed, and then one more sequence.
        tokens = round_up(longest + -(-(most - 1) * longest // rows), MULTIPLE)
        return cls(rows, needs(rows, parts), Room(tokens, tokens))


def _choose(needs_KNR: np.ndarray, rows_K: np.ndarray) -> list[list[Room]]:
    """The shapes, rising in cost, each a room for every model: greedily the one that saves most, then each once more."""

    def costs(shapes: Sequence[np.ndarray]) -> np.ndarray:
        """Positions and scored places of each batch in the cheapest shape that holds it, (batches,)."""
        each = [
            np.where((needs_KNR <= shape_KR[:, None]).all(axis=(0, 2)), (rows_K * shape_KR.sum(axis=1)).sum(), np.inf)
            for shape_KR in shapes
        ]
        return np.min(each, axis=0)

    largest_KR = needs_KNR.max(axis=1)
    shapes, batch = [largest_KR], float((rows_K * largest_KR.sum(axis=1)).sum())
    candidates = list(_candidates(needs_KNR))
    while len(shapes) < MOST_SHAPES:
        best = min(candidates, key=lambda shape: costs([*shapes, shape]).sum())
        if costs(shapes).sum() - costs([*shapes, best]).sum() < SHAPE_SAVES * batch:
            break
        shapes.append(best)
    for i in range(1, len(shapes)):
        others = shapes[:i] + shapes[i + 1 :]
        shapes[i] = min(candidates, key=lambda shape: costs([*others, shape]).sum())
    shapes.sort(key=lambda shape: (rows_K * shape.sum(axis=1)).sum())
    return [[Room(*map(int, room)) for room in shape] for shape in shapes]


def _candidates(needs_KNR: np.ndarray):
    """Rooms whose rows are as long as some batches need, with as many scored places as those batches have, (models, 2) each."""
    lengths = [np.unique(np.quantile(need, np.linspace(0, 1, CANDIDATES), method="higher")) for need in needs_KNR[:, :, 0]]
    for tokens in itertools.product(*lengths):
        held_N = (needs_KNR[:, :, 0] <= np.asarray(tokens)[:, None]).all(axis=0)
        if held_N.any():
            yield needs_KNR[:, held_N].max(axis=1)
