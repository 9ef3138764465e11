"""Packed rows and microbatches are about equally long, and nothing gets lost."""

import numpy as np
import pytest

from mpo_jax.data.chat import TokenPair
from mpo_jax.data.row_balance import balanced, dealt, needed
from mpo_jax.data.row_layout import Span

NOTHING = np.zeros(0, np.int32)
PAIR = TokenPair(NOTHING, NOTHING, NOTHING)


def sequences(sizes: list[tuple[int, int]]) -> list[Span]:
    """Of (positions, scored positions)."""
    return [Span(slot, PAIR, 0, length, scored, False) for slot, (length, scored) in enumerate(sizes)]


def lengths(packed: list[list[Span]]) -> list[list[int]]:
    return sorted(sorted(span.length for span in row) for row in packed)


def one_after_the_other(spans: list[Span], rows: int) -> list[int]:
    """The lengths of rows without exchanges: each sequence goes to the emptiest, the longest first."""
    held = [0] * rows
    for span in sorted(spans, key=lambda span: (span.scored == 0, -span.length, span.slot)):
        held[held.index(min(held))] += span.length
    return held


def test_an_exchange_levels_what_the_longest_first_leave_uneven():
    """Graham's example: 24, 24, 16, 16, 16 in two rows would be 56 and 40."""
    spans = sequences([(24, 0), (24, 0), (16, 0), (16, 0), (16, 0)])
    assert sorted(one_after_the_other(spans, 2)) == [40, 56]
    assert lengths(balanced(spans, 2)) == [[16, 16, 16], [24, 24]]


def test_a_sequence_moves_alone_where_nothing_fits_in_exchange():
    """The scored ones come first, so that the long one without scored positions goes beside the shortest of them."""
    spans = sequences([(64, 30), (16, 16), (8, 8), (64, 0), (24, 0)])
    assert one_after_the_other(spans, 3) == [64, 40, 72]
    assert lengths(balanced(spans, 3)) == [[8, 16, 24], [64], [64]]


def test_scored_positions_are_levelled_too():
    """Without exchanges the rows would be equally long too, but one would have 48 scored positions and one 16."""
    spans = sequences([(32, 24), (32, 8), (32, 24), (32, 8)])
    assert needed(balanced(spans, 2)) == (64, 32)


def test_no_row_gets_more_scored_positions_than_the_one_with_the_most_has():
    """As above, but the two would have 24 of them in one row, where no row had more than 20."""
    spans = sequences([(64, 20), (16, 16), (8, 8), (64, 0), (24, 0)])
    assert lengths(balanced(spans, 3)) == [[8, 64], [16, 24], [64]]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([90, 80, 10, 0], [[0, 3], [1, 2]]),
        ([0, 0, 50, 50], [[0, 2], [1, 3]]),  # half a batch of rows, as at the end of an epoch
        ([72, 64, 48, 40, 24, 8], [[0, 2, 5], [1, 3, 4]]),  # 128 each; the longest first would give 136 and 120
    ],
)
def test_microbatches_are_equally_long(tokens, expected):
    assert sorted(dealt(tokens, 2)) == expected
