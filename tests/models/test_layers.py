"""The parts of a layer, against their written formulas."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from mpo_jax.models import layers


@pytest.mark.parametrize("offset", [0, 1])
def test_rms_norm(offset):
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    scale = np.linspace(-1, 1, 8, dtype=np.float32)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * (offset + scale)
    np.testing.assert_allclose(layers.rms_norm(x, scale, eps=1e-5, offset=offset), expected, rtol=1e-6)


def test_rms_norm_of_bfloat16_is_computed_in_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 64)), jnp.bfloat16)
    scale = jnp.full(64, 1.0 / 3, jnp.float32)
    exact = layers.rms_norm(x.astype(jnp.float32), scale, eps=1e-6, offset=1)
    got = layers.rms_norm(x, scale, eps=1e-6, offset=1)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, exact.astype(jnp.bfloat16))


def test_rotation_depends_on_distance_only():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 1, 1, 16)).astype(np.float32)
    frequency = layers.rope_frequencies(16, layers.Rope(10_000.0))

    def dot(at_q, at_k):
        turn = lambda x, at: layers.rotate(x, layers.rope_angles(jnp.array([[at]]), frequency))  # noqa: E731
        return float(jnp.sum(turn(q, at_q) * turn(k, at_k)))

    assert dot(7, 3) == pytest.approx(dot(104, 100), abs=1e-4)
    assert abs(dot(7, 3) - dot(3, 7)) > 0.1
    assert dot(5, 5) == pytest.approx(float(np.sum(q * k)), abs=1e-5)


def test_rotation_pairs_a_dimension_with_the_one_half_a_head_away():
    x = np.zeros((1, 1, 1, 4), np.float32)
    x[..., 1] = 1.0
    turned = layers.rotate(x, jnp.array([[[0.3, 0.7]]]))
    np.testing.assert_allclose(turned[0, 0, 0], [0, math.cos(0.7), 0, math.sin(0.7)], atol=1e-6)


def test_llama3_scaling_has_three_bands():
    scaling = layers.Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
    plain, scaled = (layers.rope_frequencies(128, layers.Rope(500_000.0, s)).astype(np.float64) for s in (None, scaling))
    wavelength = 2 * math.pi / plain
    fast, slow = wavelength < 8192 / 4, wavelength > 8192 / 1
    np.testing.assert_allclose(scaled[fast], plain[fast], rtol=1e-7)
    np.testing.assert_allclose(scaled[slow], plain[slow] / 8, rtol=1e-7)
    middle = ~fast & ~slow
    smooth = (8192 / wavelength[middle] - 1) / (4 - 1)
    np.testing.assert_allclose(scaled[middle], (1 - smooth) * plain[middle] / 8 + smooth * plain[middle], rtol=1e-6)
    assert fast.any() and slow.any() and middle.any()
