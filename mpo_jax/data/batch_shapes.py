"""Which shapes does a run compile?

XLA compiles one program for each shape, so a run keeps to a few. The number of packed rows is fixed; what differs between batches
is how long those rows must be. `shapes_of` chooses the shapes once, from the batches that the run will meet.

Further shape letters in this file: W the packed parts of a batch (policy, reference, ...), E the batches examined, C the two
capacities (tokens and scored positions).
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mpo_jax.data.chat import Example
from mpo_jax.data.row_balance import MULTIPLE, balanced, needed
from mpo_jax.data.row_layout import Capacity, RowShapes, Shapes, Span, longest, read_by, round_up, spans, split_rows
from mpo_jax.types import Reads

MOST_SHAPES = 4
# Each further shape costs a compilation, so it must save the positions of this many batches.
SHAPE_SAVES = 1.0
# In rows of so many tokens attention costs as much as all products with a layer's weights, where its kernel also computes the
# queries and keys of other sequences (a TPU's does): 53,000 for Llama 3.1 8B, 48,000 for Gemma 2 9B, 30,000 for Llama 3.2 1B. So
# more rows, which are shorter, may cost more positions.
ATTENTION_DOUBLES = 50_000
TRIED_ROWS, TRIED_BATCHES = 16, 50  # how many row counts are tried, and on how many batches
CANDIDATES, VALUES = 6, 64  # row lengths of each part that are tried for a further shape, and then values of each number of it


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
    named: dict[str, Any] = dict(zip(parts, shapes, strict=True))
    found = Shapes(**named)
    of_batch = zip(*(itertools.starmap(Capacity, part.needs_EC.tolist()) for part in needs), strict=True)
    used = collections.Counter(found.first_with(dict(zip(parts, capacities, strict=True))) for capacities in of_batch)
    positions = sum(count * own.rows * own.capacities[k].tokens for k, count in used.items() for own in shapes)
    return dataclasses.replace(found, filled=sum(part.taken for part in needs) / (microbatches * positions))


@dataclasses.dataclass(frozen=True)
class _Needs:
    """What the packed rows of one part need over all batches."""

    rows: int
    needs_EC: np.ndarray  # the same for all microbatches of a batch
    always: Capacity
    taken: int  # positions of all sequences

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

        def cost(rows: int) -> float:
            tokens_E, scored_E = needs(rows, parts[:TRIED_BATCHES]).T
            return rows * float((tokens_E * (1 + tokens_E / ATTENTION_DOUBLES) + scored_E).sum())

        pieces = np.unique(np.geomspace(1, -(-most // shards), TRIED_ROWS).round().astype(int)).tolist()
        rows = min((shards * n for n in pieces), key=cost)
        # Each sequence first goes to the emptiest row, which holds no more than the mean of what is packed so far, and exchanges
        # make no row longer than the longest.
        length = longest(examples, reads, padded_length)
        tokens = round_up(length + -(-(most - 1) * length // rows), MULTIPLE)
        taken = sum(span.length for batch in parts for part in batch for span in part)
        return cls(rows, needs(rows, parts), Capacity(tokens, tokens), taken)


def _choose(needs_WEC: np.ndarray, rows_W: np.ndarray) -> list[list[Capacity]]:
    """The shapes in order of cost, each with a capacity for every part: one after the other the one that saves most, and then
    each number of them as is best given all others."""
    needs_ED = needs_WEC.transpose(1, 0, 2).reshape(needs_WEC.shape[1], -1)
    rows_D = np.repeat(rows_W, 2)
    shapes_KD, candidates_ND = needs_ED.max(0, keepdims=True), _candidates(needs_ED)
    one = float(shapes_KD[0] @ rows_D)
    while len(shapes_KD) < MOST_SHAPES:
        now_E = _costs(shapes_KD, needs_ED, rows_D).min(0)
        saved_N = np.maximum(now_E - _costs(candidates_ND, needs_ED, rows_D), 0).sum(1)
        further_KD = _descend(np.vstack([shapes_KD, candidates_ND[saved_N.argmax()]]), needs_ED, rows_D)
        if now_E.sum() - _costs(further_KD, needs_ED, rows_D).min(0).sum() < SHAPE_SAVES * one:
            break
        shapes_KD = further_KD
    shapes_KD = shapes_KD[(shapes_KD @ rows_D).argsort(kind="stable")]
    return [[Capacity(*part) for part in shape.reshape(-1, 2).tolist()] for shape in shapes_KD]


def _costs(shapes_KD: np.ndarray, needs_ED: np.ndarray, rows_D: np.ndarray) -> np.ndarray:
    """Positions and scored positions of each batch in each shape, (K, E); infinite where the shape does not hold it."""
    held_KE = (needs_ED <= shapes_KD[:, None]).all(axis=2)
    return np.where(held_KE, (shapes_KD @ rows_D)[:, None], np.inf)


def _descend(shapes_KD: np.ndarray, needs_ED: np.ndarray, rows_D: np.ndarray) -> np.ndarray:
    """Shapes that cost no less whichever single number of them is changed."""
    shapes_KD, values = shapes_KD.copy(), [_spread(needs_E, VALUES) for needs_E in needs_ED.T]
    before, cost = np.inf, _costs(shapes_KD, needs_ED, rows_D).min(0).sum()
    while cost < before:
        before = cost
        for k, d in np.ndindex(shapes_KD.shape):
            others_E = _costs(np.delete(shapes_KD, k, 0), needs_ED, rows_D).min(0, initial=np.inf)
            tried_ND = np.tile(shapes_KD[k], (len(values[d]), 1))
            tried_ND[:, d] = values[d]
            cost_N = np.minimum(_costs(tried_ND, needs_ED, rows_D), others_E).sum(1)
            if cost_N.min() < cost:
                shapes_KD[k], cost = tried_ND[cost_N.argmin()], cost_N.min()
    return shapes_KD


def _candidates(needs_ED: np.ndarray) -> np.ndarray:
    """Shapes whose rows are as long as some batches need, with as many scored positions as those batches have, (N, D)."""
    lengths = [_spread(needs_E, CANDIDATES) for needs_E in needs_ED[:, ::2].T]
    held = [needs_ED[(needs_ED[:, ::2] <= tokens).all(axis=1)] for tokens in itertools.product(*lengths)]
    return np.stack([needs.max(0) for needs in held if len(needs)])


def _spread(needs_E: np.ndarray, most: int) -> np.ndarray:
    """Up to this many different values of a number, from the least to the greatest."""
    return np.unique(np.quantile(needs_E, np.linspace(0, 1, most), method="higher"))
