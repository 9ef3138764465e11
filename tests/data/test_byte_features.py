import numpy as np
import pytest
from py3langid.langid import visit_counts

from mpo_jax.data import language
from mpo_jax.data.byte_features import STRETCH, Automaton

SAMPLES = ("this is a short text ", "это короткий текст ", "これは短い文章です")  # characters of one, two and three bytes


def test_a_text_that_is_read_in_stretches_has_the_features_of_the_whole():
    """Texts that end before, at and after the end of a stretch."""
    texts = [
        (sample * 30).encode()[:size] for sample in SAMPLES for size in (STRETCH - 1, STRETCH, STRETCH + 1, 2 * STRETCH, 300)
    ]
    texts += [b"", b"a" * STRETCH, "".join(SAMPLES).encode() * 20, b""]
    identifier = language._identifier()
    seen = language._automaton().counts(texts, len(identifier.nb_ptc))
    for row, text in enumerate(texts):
        expected = visit_counts(identifier.tk_nextmove, identifier._rowbase, identifier.tk_output, text) or {}
        found = slice(*seen.indptr[row : row + 2])
        assert dict(zip(seen.indices[found].tolist(), seen.data[found].tolist(), strict=True)) == expected, row
    assert language._automaton().counts([], 3).shape == (0, 3)


def test_an_automaton_that_remembers_more_is_refused():
    """One that never forgets that it has seen a "b"."""
    following = np.zeros((2, 256), np.int32)
    following[0, ord("b")] = following[1] = 1
    automaton = Automaton(following.ravel(), np.asarray([0, 256]), np.asarray([-1, 0]))
    rest = b"a" * STRETCH
    assert automaton.counts([b"ba", rest + b"b"], 1).toarray().tolist() == [[2], [1]]
    with pytest.raises(AssertionError, match="remembers more"):
        automaton.counts([b"b" + rest], 1)
