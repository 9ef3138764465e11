"""LENS is its equation, in float64 and term by term, and its gradient is that of the equation."""

import jax
import numpy as np
import pytest
from answers import rows_of
from states import gradient_by_differences, prompts

from mpo_jax.errors import InputError
from mpo_jax.losses import Lens, Mlc, Sum
from mpo_jax.losses.language_subspaces import Subspaces
from mpo_jax.types import Reads, Want

B, D = 3, 8
random = np.random.default_rng(2)
H_D, H_T, R_D, R_T = (random.normal(size=(B, D)) for _ in range(4))
PROBE = Subspaces.of({name: 2 + random.normal(size=D) for name in ("en", "zh", "sw")})
LANGUAGE = [0, 1, 1]  # of the rows, in the run's list: sw, zh
OF_PROBE = [2, 1, 1]


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    path = tmp_path_factory.mktemp("probe") / "probe.safetensors"
    path.write_bytes(PROBE.encoded())
    return str(path)


def terms(h_d, h_t, shift=1.0):
    """(retain, separate, align) of each row, in full width, as the authors' code has them."""
    onto = PROBE.specific_qD.T @ PROBE.specific_qD
    unit = PROBE.agnostic_D / np.linalg.norm(PROBE.agnostic_D)
    retain = ((h_d - R_D) ** 2).mean(axis=1)
    separate = (((h_t - R_T) @ onto - shift * PROBE.shift_KD[OF_PROBE]) ** 2).mean(axis=1)
    align = ((((h_d - h_t) @ unit)[:, None] * unit) ** 2).mean(axis=1)
    return retain, separate, align


REFERENCE = prompts(R_D.astype(np.float32), R_T.astype(np.float32))


def rows(method, h_d=H_D, h_t=H_T):
    policy = prompts(np.asarray(h_d, np.float32), np.asarray(h_t, np.float32), language=LANGUAGE)
    return rows_of(method, policy, REFERENCE)


def test_is_its_equation(probe):
    retain, separate, align = terms(H_D, H_T)
    found = rows(Lens(probe))
    np.testing.assert_allclose(found.loss_B, retain + separate + align, rtol=1e-5)
    for name, expected in (("retain", retain), ("separate", separate), ("align", align)):
        np.testing.assert_allclose(found.metrics_B[f"loss/{name}"], expected, rtol=1e-5)
    weighted = rows(Lens(probe, retain=0.3, separate=2.0, align=0.7, shift=1.5))
    _, further, _ = terms(H_D, H_T, shift=1.5)
    np.testing.assert_allclose(weighted.loss_B, 0.3 * retain + 2 * further + 0.7 * align, rtol=1e-5)


def test_its_gradient_is_that_of_the_equation_on_both_sides(probe):
    def total(h_d, h_t):
        return rows_of(Lens(probe), prompts(h_d, h_t, language=LANGUAGE), REFERENCE).loss_B.sum()

    found = jax.grad(total, argnums=(0, 1))(H_D.astype(np.float32), H_T.astype(np.float32))
    np.testing.assert_allclose(found[0], gradient_by_differences(lambda x: np.sum(terms(x, H_T)), H_D), atol=1e-5)
    np.testing.assert_allclose(found[1], gradient_by_differences(lambda x: np.sum(terms(H_D, x)), H_T), atol=1e-5)


def test_at_the_reference_the_target_is_still_to_move_and_the_dominant_side_to_stay(probe):
    found = rows(Lens(probe), R_D, R_T)
    np.testing.assert_array_equal(found.metrics_B["loss/retain"], 0)
    np.testing.assert_allclose(found.metrics_B["loss/separate"], (PROBE.shift_KD[OF_PROBE] ** 2).mean(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(found.by_language_B["moved"], 0)
    arrived = rows(Lens(probe), R_D, R_T + PROBE.shift_KD[OF_PROBE])
    np.testing.assert_allclose(arrived.metrics_B["loss/separate"], 0, atol=1e-10)
    np.testing.assert_allclose(arrived.by_language_B["moved"], 1, rtol=1e-5)


def test_what_it_reads(probe):
    both = Reads(Want.PROMPT, Want.PROMPT, layer=2)
    assert Lens(layer=2).policy_reads == both and Lens(layer=2).reference_reads == both
    assert not both.storable
    assert Sum({"a": Lens(probe), "b": Mlc()}).reference_reads == Lens().reference_reads


def test_what_it_cannot_do(probe):
    with pytest.raises(InputError, match="align=-1 must not be negative"):
        Lens(align=-1)
    with pytest.raises(InputError, match=r"loss\.layer=-1"):
        Lens(layer=-1)
    with pytest.raises(InputError, match=r"probe\.safetensors does not exist"):
        rows(Lens("no/probe.safetensors"))
    with pytest.raises(InputError, match="width 8, but this model's have 4"):
        rows(Lens(probe), H_D[:, :4], H_T[:, :4])
    with pytest.raises(InputError, match="does not have the language 'ko' of the data, but has en, zh, sw"):
        rows_of(Lens(probe), prompts(H_D, H_T, languages=("sw", "ko")), REFERENCE)
