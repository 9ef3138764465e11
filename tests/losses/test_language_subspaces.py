"""The subspaces have the properties that define them, and survive the file."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from mpo_jax.errors import InputError
from mpo_jax.losses.language_subspaces import Subspaces

LANGUAGES = ("en", "ar", "sw", "zh")
D = 12
MEANS = {name: 3 + np.random.default_rng(i).normal(size=D) for i, name in enumerate(LANGUAGES)}
MEANS_DK = np.stack(list(MEANS.values()), axis=1)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_the_agnostic_point_is_the_point_of_the_hull_nearest_to_0():
    """It lies in the affine hull of the means, orthogonal to all its directions; no other point of the hull is as short."""
    point = Subspaces.of(MEANS).agnostic_D
    weights = np.linalg.lstsq(np.vstack([MEANS_DK, np.ones(4)]), np.append(point, 1), rcond=None)[0]
    close(MEANS_DK @ weights, point)
    close(weights.sum(), 1)
    close((MEANS_DK - MEANS_DK[:, :1]).T @ point, 0)
    for seed in range(20):
        other = np.random.default_rng(seed).normal(size=4)
        assert np.linalg.norm(MEANS_DK @ (weights + other - other.mean())) > np.linalg.norm(point)


def test_the_specific_directions_are_orthonormal_and_span_the_hull():
    found = Subspaces.of(MEANS)
    assert found.languages == LANGUAGES and found.specific_qD.shape == (3, D)
    close(found.specific_qD @ found.specific_qD.T, np.eye(3))
    close(found.specific_qD @ found.agnostic_D, 0)
    close(found.shift_KD, (MEANS_DK - MEANS_DK[:, :1]).T)  # nothing of a difference of means is outside of it
    close(found.shift_KD[0], 0)


def test_of_two_languages_it_is_the_line_through_their_means():
    found = Subspaces.of({name: MEANS[name] for name in ("en", "sw")})
    step = MEANS["sw"] - MEANS["en"]
    close(np.abs(found.specific_qD[0] @ step), np.linalg.norm(step))
    close(found.agnostic_D, MEANS["en"] - step * (MEANS["en"] @ step) / (step @ step))


def test_a_lower_rank_keeps_the_largest_differences():
    """And what is kept of the differences is their projection on these."""
    found = Subspaces.of(MEANS, rank=2)
    close(found.specific_qD @ found.specific_qD.T, np.eye(2))
    close(found.specific_qD @ found.agnostic_D, 0)
    centred_DK = MEANS_DK - MEANS_DK.mean(axis=1, keepdims=True)
    largest = np.linalg.svd(centred_DK, full_matrices=False)[0][:, :2]
    close(largest @ largest.T, found.specific_qD.T @ found.specific_qD)
    close(found.shift_KD.T, largest @ largest.T @ (MEANS_DK - MEANS_DK[:, :1]))


def test_a_file_keeps_it_bit_for_bit(tmp_path):
    found = Subspaces.of(MEANS)
    (tmp_path / "probe.safetensors").write_bytes(found.encoded())
    again = Subspaces.read(tmp_path / "probe.safetensors")
    assert again.languages == LANGUAGES
    for name in ("agnostic_D", "specific_qD", "shift_KD"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))


def test_what_has_no_subspaces(tmp_path):
    with pytest.raises(InputError, match="at least two languages"):
        Subspaces.of({"en": MEANS["en"]})
    with pytest.raises(InputError, match="rank 1 to 3, not 4"):
        Subspaces.of(MEANS, rank=4)
    with pytest.raises(InputError, match="are dependent"):
        Subspaces.of({**MEANS, "de": MEANS["en"]})
    with pytest.raises(InputError, match="are dependent"):
        Subspaces.of({"en": MEANS["en"], "de": -MEANS["en"]})  # 0 is between them, so nothing is common
    with pytest.raises(InputError, match="does not exist: make it with"):
        Subspaces.read(tmp_path / "none.safetensors")
    save_file({"agnostic": np.ones(3)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="is no probe of a model's languages"):
        Subspaces.read(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(InputError, match="is no probe of a model's languages"):
        Subspaces.read(tmp_path / "text.safetensors")
