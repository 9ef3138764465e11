"""Attention against its dense formula, and what no query may see."""

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
import pytest

from mpo_jax.models.attention import attention

S, T, N, K, H = 2, 13, 4, 2, 3
SEGMENT_ST = np.array([[1] * 6 + [2] * 5 + [0] * 2, [1] * 13], np.int32)
KV_SEGMENT_ST = np.array([[1] * 6 + [2] * 4 + [0] * 3, [1] * 10 + [0] * 3], np.int32)
POSITION_ST = np.array([[*range(6), *range(5), 0, 1], [*range(13)]], np.int32)
SCALE = 0.4


def qkv(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [3 * rng.normal(size=(S, T, heads, H)).astype(np.float32) for heads in (N, K, K)]


def dense(q_STNH, k_STKH, v_STKH, softcap, window):
    """One query, one head at a time, in float64."""
    out_STNH = np.zeros((S, T, N, H))
    for s, t, n in np.ndindex(S, T, N):
        keys = [
            u
            for u in range(t + 1)
            if KV_SEGMENT_ST[s, u] == SEGMENT_ST[s, t] and (window is None or POSITION_ST[s, t] - POSITION_ST[s, u] < window)
        ]
        if keys:
            score = k_STKH[s, keys, n // (N // K)].astype(np.float64) @ q_STNH[s, t, n] * SCALE
            score = score if softcap is None else softcap * np.tanh(score / softcap)
            weight = np.exp(score - score.max())
            out_STNH[s, t, n] = weight @ v_STKH[s, keys, n // (N // K)] / weight.sum()
    return out_STNH


def run(q, k, v, softcap=None, window=None, block=512):
    return attention(q, k, v, POSITION_ST, SEGMENT_ST, KV_SEGMENT_ST, scale=SCALE, softcap=softcap, window=window, block=block)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("block", [512, 5, 1])
def test_blocks_equal_the_dense_formula(block, softcap, window):
    got = jax.jit(run, static_argnums=(3, 4, 5))(*qkv(), softcap, window, block)
    np.testing.assert_allclose(got, dense(*qkv(), softcap, window), atol=2e-6)


def test_a_query_that_sees_no_key_gives_zero_and_no_nan_gradient():
    q, k, v = qkv()
    nothing = lambda q, k, v: attention(  # noqa: E731
        q, k, v, POSITION_ST, SEGMENT_ST, np.full_like(SEGMENT_ST, 9), scale=SCALE, softcap=2.0, window=None
    )
    assert not np.any(nothing(q, k, v))
    grads = jax.grad(lambda *x: jnp.sum(nothing(*x)), argnums=(0, 1, 2))(q, k, v)
    assert all(np.all(g == 0) for g in grads)


def test_gradient_shows_who_is_seen():
    q, k, v = qkv()
    seen = jax.jacobian(lambda v: jnp.sum(run(q, k, v, window=3, block=4), axis=(2, 3)))(v)  # [S, T, S, T, K, H]
    sees = np.abs(seen).sum(axis=(4, 5)) > 0
    for s, t, s2, u in np.ndindex(S, T, S, T):
        allowed = s == s2 and u <= t and SEGMENT_ST[s, t] == KV_SEGMENT_ST[s, u] and POSITION_ST[s, t] - POSITION_ST[s, u] < 3
        assert sees[s, t, s2, u] == allowed, (s, t, s2, u)


def test_no_array_over_queries_times_keys():
    long, block = 256, 16
    x = jnp.zeros((1, long, 1, 1))
    row = jnp.zeros((1, long), jnp.int32)
    f = lambda x: jnp.sum(attention(x, x, x, row, row, row, scale=1.0, softcap=2.0, window=7, block=block))  # noqa: E731

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.size for v in equation.outvars)
            for inner in jex.core.jaxprs_in_params(equation.params):
                yield from sizes(inner)

    biggest = max(sizes(jax.make_jaxpr(jax.grad(f))(x).jaxpr))
    assert biggest <= block * long < long * long
