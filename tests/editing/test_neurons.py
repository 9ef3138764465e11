"""Safety neurons of activations whose answer is known."""

import numpy as np
import pytest

from mpo_jax.editing.neurons import Thresholds, overlap, safety_neurons
from mpo_jax.errors import InputError


def activations(seed=0, prompts=50, neurons=40):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(2, prompts, neurons)).astype(np.float32)


def test_both_measures_are_one_sided():
    harmful, harmless = activations()
    harmful[:, 3] += 2.0  # Cohen's d of 2
    harmful[:, 5] -= 2.0
    found = safety_neurons(harmful, harmless, Thresholds())
    assert found.tolist() == [j == 3 for j in range(40)]


def test_each_measure_finds_what_the_other_does_not():
    harmful, harmless = activations()
    spread = np.ones(40)
    spread[7] = 100.0  # a large difference that drowns in the neuron's own noise
    harmful, harmless = harmful * spread, harmless * spread
    harmful[:, 7] += 30.0
    harmful[:, 9] += 1.6  # a small difference that is certain
    only_z = safety_neurons(harmful, harmless, Thresholds(d=np.inf))
    only_d = safety_neurons(harmful, harmless, Thresholds(z=np.inf))
    assert np.flatnonzero(only_z).tolist() == [7] and np.flatnonzero(only_d).tolist() == [9]
    assert np.flatnonzero(safety_neurons(harmful, harmless, Thresholds())).tolist() == [7, 9]


def test_the_measures_are_their_formulas():
    harmful, harmless = (x.astype(np.float64) for x in activations(seed=3))
    harmful, harmless = harmful + 0.2, harmless[:20]  # all neurons differ, so that z is not the difference itself
    delta = harmful.mean(0) - harmless.mean(0)
    z = (delta - delta.mean()) / np.sqrt(np.mean((delta - delta.mean()) ** 2))
    pooled = (harmful.std(0, ddof=1) ** 2 * 49 + harmless.std(0, ddof=1) ** 2 * 19) / 68
    d = delta / np.sqrt(pooled)
    for limits in ((0.5, np.inf), (1.5, np.inf), (np.inf, 0.1), (np.inf, 0.3), (1.0, 0.3)):
        found = safety_neurons(harmful, harmless, Thresholds(*limits))
        assert (found == ((z > limits[0]) | (d > limits[1]))).all() and 0 < found.sum() < 40


def test_a_layer_that_never_differs_has_none():
    same = np.ones((4, 6))
    assert not safety_neurons(same, same, Thresholds()).any()


def test_overlap_is_jaccards_index():
    masks = {"en": np.array([1, 1, 0, 0], bool), "sw": np.array([1, 0, 1, 0], bool), "bn": np.zeros(4, bool)}
    assert overlap(masks) == pytest.approx(np.array([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]]))


def test_one_prompt_is_too_few():
    with pytest.raises(InputError, match="1 harmful and 4 harmless"):
        safety_neurons(np.ones((1, 3)), np.ones((4, 3)), Thresholds())
