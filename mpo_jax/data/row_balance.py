"""How are sequences shared out among packed rows, and the rows of a batch among microbatches, so that all are equally long?

Further shape letters in this file: N sequences, R the packed rows among which they are shared out, C the two lengths of either
(tokens and scored positions).
"""

import heapq
from collections.abc import Sequence

import numpy as np

from mpo_jax.data.row_layout import Capacity, Span, round_up

MULTIPLE = 8  # the two lengths of packed rows are multiples of it


def balanced(sequences: Sequence[Span], rows: int) -> list[list[Span]]:
    """The sequences of each of `rows` packed rows.

    Each sequence goes to the row with the fewest positions so far, the longest first (R. L. Graham, Bounds on Multiprocessing
    Timing Anomalies, 1969), but those with scored positions before all others, since these are to be spread evenly too. Then
    sequences of the longest row are exchanged with others while that makes it shorter.
    """
    ordered = sorted(sequences, key=lambda span: (span.scored == 0, -span.length, span.slot))
    held, row_of = [(0, row) for row in range(rows)], []
    for span in ordered:
        length, row = held[0]
        heapq.heapreplace(held, (length + span.length, row))
        row_of.append(row)
    row_N = np.asarray([*row_of, *range(rows)])  # and in each row an empty sequence: exchanged for it, another one just moves
    size_NC = np.asarray([(span.length, span.scored) for span in ordered] + [(0, 0)] * rows)
    _level(size_NC, row_N, rows)
    packed: list[list[Span]] = [[] for _ in range(rows)]
    for span, row in zip(ordered, row_N.tolist(), strict=False):
        packed[row].append(span)
    return packed


def dealt(tokens: Sequence[int], microbatches: int) -> list[list[int]]:
    """For each microbatch the indices of its items, in ascending order: equally many items, and about equally many tokens."""
    each, size_NC = len(tokens) // microbatches, np.asarray([(n, 0) for n in tokens])
    held, count, part_N = [0] * microbatches, [0] * microbatches, np.zeros(len(tokens), int)
    for i in sorted(range(len(tokens)), key=lambda i: -tokens[i]):
        lightest = min((m for m in range(microbatches) if count[m] < each), key=held.__getitem__)
        part_N[i] = lightest
        held[lightest] += tokens[i]
        count[lightest] += 1
    _level(size_NC, part_N, microbatches)
    return [np.flatnonzero(part_N == m).tolist() for m in range(microbatches)]


def needed(packed: Sequence[Sequence[Span]]) -> Capacity:
    """The capacity that these packed rows need."""
    return Capacity(max(sum(s.length for s in row) for row in packed), max(sum(s.scored for s in row) for row in packed))


def _level(size_NC: np.ndarray, row_N: np.ndarray, rows: int) -> None:
    """Changes `row_N` until no single exchange shortens the longest row, or until rounding would hide that it does."""
    held_RC = np.zeros((rows, 2), int)
    np.add.at(held_RC, row_N, size_NC)
    least_C = [max(longest, -(-total // rows)) for longest, total in zip(size_NC.max(0), size_NC.sum(0), strict=True)]
    before = None
    while before != (before := held_RC.max(0).tolist()):
        for c in range(2):
            while round_up(held_RC[:, c].max(), MULTIPLE) > round_up(least_C[c], MULTIPLE):
                if not _exchange(size_NC, row_N, held_RC, c):
                    break


def _exchange(size_NC: np.ndarray, row_N: np.ndarray, held_RC: np.ndarray, c: int) -> bool:
    """Exchanges the two sequences that shorten the row with the greatest length c most, and no row's other length beyond the
    greatest. Returns whether there are such."""
    longest = held_RC[:, c].argmax()
    here, there = np.flatnonzero(row_N == longest), np.flatnonzero(row_N != longest)
    if not len(there):
        return False
    moved = size_NC[here, None] - size_NC[there]
    after = np.maximum(held_RC[longest] - moved, held_RC[row_N[there]] + moved)  # the greater of the two rows' lengths
    length = np.where(after[..., 1 - c] <= held_RC[:, 1 - c].max(), after[..., c], held_RC[longest, c])
    i, j = np.unravel_index(length.argmin(), length.shape)
    if length[i, j] >= held_RC[longest, c]:
        return False
    a, b = here[i], there[j]
    held_RC[longest] -= moved[i, j]
    held_RC[row_N[b]] += moved[i, j]
    row_N[[a, b]] = row_N[[b, a]]
    return True
