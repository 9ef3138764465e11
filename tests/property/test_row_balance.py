"""Whatever lengths sequences have, they are shared out once each, and exchanges make no row longer."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mpo_jax.data.chat import TokenPair
from mpo_jax.data.row_balance import balanced, dealt, needed
from mpo_jax.data.row_layout import Span

NOTHING = np.zeros(0, np.int32)
PAIR = TokenPair(NOTHING, NOTHING, NOTHING)
sizes = st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@given(st.lists(sizes, max_size=40), st.integers(1, 9))
def test_every_sequence_once_and_rows_no_longer_than_without_exchanges(found, rows):
    spans = [Span(slot, PAIR, 0, length, scored, False) for slot, (length, scored) in enumerate(found)]
    packed = balanced(spans, rows)
    assert len(packed) == rows
    assert sorted(span.slot for row in packed for span in row) == list(range(len(spans)))
    before = [0] * rows
    for span in sorted(spans, key=lambda span: (span.scored == 0, -span.length, span.slot)):
        before[before.index(min(before))] += span.length
    total, longest = sum(n for n, _ in found), max((n for n, _ in found), default=0)
    assert max(longest, -(-total // rows)) <= needed(packed).tokens <= max(before)
    again = balanced(spans[::-1], rows)
    assert [[span.slot for span in row] for row in again] == [[span.slot for span in row] for row in packed]


@given(st.lists(st.integers(0, 400), min_size=1, max_size=24), st.integers(1, 5))
def test_microbatches_have_equally_many_rows_each_once(tokens, microbatches):
    tokens = tokens * microbatches
    parts = dealt(tokens, microbatches)
    assert [len(part) for part in parts] == [len(tokens) // microbatches] * microbatches
    assert sorted(i for part in parts for i in part) == list(range(len(tokens)))
    assert all(part == sorted(part) for part in parts)
