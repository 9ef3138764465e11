"""What is drawn has exactly the distribution that temperature, top_k and top_p describe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from mpo_jax.generation.base import Decoding
from mpo_jax.generation.sampling import Draw, choose, kept

V, MANY = 24, 20_000
LOGITS_V = np.random.default_rng(0).normal(0, 1.5, V).astype(np.float32)


def probabilities(temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """From the definitions, by sorting."""
    p_V = np.exp(LOGITS_V.astype(np.float64) / temperature)
    p_V /= p_V.sum()
    order = np.argsort(-p_V)
    if top_k:
        p_V[order[top_k:]] = 0
        p_V /= p_V.sum()
    before = np.cumsum(p_V[order]) - p_V[order]
    p_V[order[before >= top_p]] = 0
    return p_V / p_V.sum()


def keys(many: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, (many, 2), dtype=np.uint32)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.7, 0, 1.0), (1.5, 0, 1.0), (1.0, 5, 1.0), (1.0, 0, 0.8), (1.3, 9, 0.9)]
)
def test_twenty_thousand_tokens_have_the_exact_distribution(temperature, top_k, top_p):
    draw = Draw.of(Decoding(temperature=temperature, top_k=top_k, top_p=top_p))
    tokens = np.asarray(jax.jit(choose)(jnp.tile(LOGITS_V, (MANY, 1)), keys(MANY), jnp.int32(3), draw))
    expected = MANY * probabilities(temperature, top_k, top_p)
    seen = np.bincount(tokens, minlength=V)
    assert not seen[expected == 0].any()
    some = expected > 0
    assert chisquare(seen[some], expected[some]).pvalue > 1e-4


def test_no_token_is_drawn_by_the_number_of_another():
    """The same key gives other tokens at other positions, and the same one at the same."""
    draw, logits_BV, key_B2 = Draw.of(Decoding(temperature=1.0)), jnp.tile(LOGITS_V, (500, 1)), keys(500)
    tokens = [np.asarray(choose(logits_BV, key_B2, jnp.int32(number), draw)) for number in (0, 1, 0)]
    assert np.array_equal(tokens[0], tokens[2])
    together = np.mean(tokens[0] == tokens[1])
    assert together == pytest.approx(np.sum(probabilities(1.0, 0, 1.0) ** 2), abs=0.08), "two numbers are independent"


def test_temperature_zero_takes_the_most_probable_and_the_first_of_equals():
    logits_BV = jnp.asarray([[0.0, 2.0, 2.0], [1.0, -1.0, 0.5]])
    assert choose(logits_BV, keys(2), jnp.int32(0), Draw.of(Decoding())).tolist() == [1, 0]


@pytest.mark.parametrize(("top_k", "top_p", "left"), [(1, 1.0, [3]), (3, 1.0, [0, 1, 3]), (0, 0.5, [3]), (0, 0.88, [0, 3])])
def test_what_is_cut(top_k, top_p, left):
    p_V = np.asarray([0.2, 0.07, 0.03, 0.7])
    draw = Draw.of(Decoding(temperature=1.0, top_k=top_k, top_p=top_p))
    logits_V = np.asarray(kept(jnp.log(jnp.asarray(p_V, jnp.float32))[None], draw))[0]
    assert np.flatnonzero(np.isfinite(logits_V)).tolist() == left


def test_equally_probable_tokens_stay_together():
    draw = Draw.of(Decoding(temperature=1.0, top_k=2))
    assert np.isfinite(kept(jnp.asarray([[1.0, 1.0, 1.0, 0.0]]), draw)).tolist() == [[True, True, True, False]]


def test_more_than_there_is_cuts_nothing():
    logits_BV = jnp.asarray(LOGITS_V)[None]
    for draw in (Decoding(temperature=1.0, top_k=V + 5), Decoding(temperature=1.0, top_p=0.9999999)):
        assert np.array_equal(kept(logits_BV, Draw.of(draw)), logits_BV)
