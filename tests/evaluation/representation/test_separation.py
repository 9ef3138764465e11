"""Silhouette, probe and principal plane on points whose answer is known."""

import numpy as np
import pytest

from mpo_jax.errors import InputError
from mpo_jax.evaluation.proportion import wilson
from mpo_jax.evaluation.representation.separation import LinearProbe, principal_plane, silhouettes
from mpo_jax.evaluation.representation.states import Exchange
from mpo_jax.evaluation.representation.table import format_lines, separation_table

SAFE = np.array([True, False] * 40)


def cloud(distance: float, seed: int = 0, width: int = 8) -> np.ndarray:
    """Two clouds of unit variance, this far apart along one direction."""
    points = np.random.default_rng(seed).normal(size=(len(SAFE), width))
    points[:, 0] += np.where(SAFE, distance, 0.0)
    return points.astype(np.float32)


def test_silhouettes_by_hand():
    points = np.array([[0.0], [1.0], [4.0], [6.0]])
    safe = np.array([True, True, False, False])
    # a: 1, 1, 2, 2; b: 5, 4, 3.5, 5.5
    np.testing.assert_allclose(silhouettes(points, safe), [4 / 5, 3 / 4, 1.5 / 3.5, 3.5 / 5.5])
    assert (silhouettes(np.zeros((4, 2)), safe) == 0).all()
    with pytest.raises(InputError, match="at least two safe and two unsafe"):
        silhouettes(points[:3], safe[:3])


def test_the_probe_learns_the_direction():
    probe = LinearProbe(cloud(4.0), SAFE)
    assert (probe(cloud(4.0, seed=1)) == SAFE).mean() > 0.9
    assert 0.3 < (probe(cloud(0.0, seed=1)) == SAFE).mean() < 0.7, "nothing to tell"
    swapped = LinearProbe(cloud(4.0), ~SAFE)
    np.testing.assert_array_equal(swapped(cloud(4.0, seed=1)), ~probe(cloud(4.0, seed=1)))


def test_the_probe_is_at_the_minimum_of_its_loss():
    points = cloud(1.0)
    probe = LinearProbe(points, SAFE)
    x = (points - points.mean(0)) / points.std(0)

    def loss(w, bias):
        margin = np.where(SAFE, 1, -1) * (x @ w + bias)
        return np.log1p(np.exp(-margin)).mean() + w @ w / (2 * len(x))

    best = loss(probe._w_D, probe._bias)
    for step in 0.05 * np.eye(points.shape[1]):
        assert min(loss(probe._w_D + step, probe._bias), loss(probe._w_D - step, probe._bias)) > best
    assert min(loss(probe._w_D, probe._bias + 0.05), loss(probe._w_D, probe._bias - 0.05)) > best


def test_a_constant_column_does_no_harm():
    points = np.concatenate([cloud(4.0), np.ones((len(SAFE), 1), np.float32)], axis=1)
    assert (LinearProbe(points, SAFE)(points) == SAFE).mean() > 0.9


def test_the_principal_plane_holds_the_most_variance():
    points = np.random.default_rng(0).normal(size=(200, 5)) * [9.0, 0.1, 4.0, 0.2, 0.3] + 100
    plane = principal_plane(points)
    np.testing.assert_allclose(np.abs(np.corrcoef(plane[:, 0], points[:, 0])[0, 1]), 1, atol=1e-2)
    np.testing.assert_allclose(np.abs(np.corrcoef(plane[:, 1], points[:, 2])[0, 1]), 1, atol=1e-2)
    np.testing.assert_allclose(plane.var(0).sum(), np.linalg.eigvalsh(np.cov(points.T, bias=True))[-2:].sum())


def exchanges(language: str, prompts: int = 40) -> list[Exchange]:
    return [Exchange(language, f"p{i}", safe, i, "source") for i in range(prompts) for safe in (True, False)]


def test_a_language_that_is_separated_otherwise_fails_the_dominant_probe():
    """sw is as well separated as en, by the opposite direction: the silhouette does not notice, the probe does."""
    states = np.concatenate([cloud(6.0), cloud(-6.0, seed=2), cloud(6.0, seed=3)])
    asked = [*exchanges("en"), *exchanges("sw"), *exchanges("bn")]
    en, sw, bn = separation_table(states, asked, "en")
    assert [line.language for line in (en, sw, bn)] == ["en", "sw", "bn"]
    assert en.accuracy[0] > 0.95 and bn.accuracy[0] > 0.95 and sw.accuracy[0] < 0.6
    assert min(line.silhouette[0] for line in (en, sw, bn)) > 0.3
    for line in (en, sw, bn):
        assert line.silhouette[1] <= line.silhouette[0] <= line.silhouette[2]
        assert line.accuracy[1] <= line.accuracy[0] <= line.accuracy[2]
    assert "bn" in format_lines({"model": [en, sw, bn]})


def test_the_probe_never_tries_what_it_has_seen():
    """States without any sign of safety, each its own: a probe that saw them would know them by heart."""
    random = np.random.default_rng(0).normal(size=(80, 200)).astype(np.float32)
    [line] = separation_table(random, exchanges("en"), "en")
    assert 0.2 < line.accuracy[0] < 0.8
    assert line.accuracy[1:] == wilson(round(40 * line.accuracy[0]), 40), "20 of the 40 prompts, two answers each"
    with pytest.raises(InputError, match="3 prompts in the dominant language 'en'"):
        separation_table(random[:6], exchanges("en", 3), "en")
