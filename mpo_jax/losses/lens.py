"""Multilingual enhancement in the subspaces of languages."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from mpo_jax.errors import InputError
from mpo_jax.losses.language_subspaces import Subspaces
from mpo_jax.losses.mlc import check_layer
from mpo_jax.types import Array, Number, Reads, RowLoss, Rows, Scores, Want


@dataclasses.dataclass
class Lens:
    """Multilingual enhancement: languages come together in what they share and move apart in what tells them apart.

        L = retain ||h_d - r_d||^2 + separate ||M (h_t - r_t) - shift M (mu_t - mu_d)||^2 + align (u . h_d - u . h_t)^2

    each divided by the width. W. Zhao et al., "Lens: Rethinking Multilingual Enhancement for Large Language Models",
    arXiv:2410.04407. h and r are the states of the prompt's last token in the policy and in the reference, d on the row's
    dominant side and t on its target side. The rows of M are an orthonormal basis of the language-specific subspace, u is the
    unit vector of the language-agnostic one, and mu are the means of the languages; all are in the file `probe`
    (`language_subspaces.Subspaces`). The gradient of the last term goes through both sides.

    Weights and equation are those of the authors' code, where "pull" is the second and "push" the third term. Its first term is
    of the mean over all positions of the dominant prompt, padding included. A row stands for one target language, so with
    several the first term counts once for each. The authors train the last two of 32 layers (`frozen=layers:30,...`).
    """

    probe: str = dataclasses.field(default="probe.safetensors", metadata={"file": True})
    retain: float = 1.0
    separate: float = 1.0
    align: float = 1.0
    shift: float = 1.0
    layer: int = 0

    def __post_init__(self) -> None:
        check_layer(self.layer)
        for name in ("retain", "separate", "align"):
            if getattr(self, name) < 0:
                raise InputError(f"loss.{name}={getattr(self, name)} must not be negative.")

    @property
    def policy_reads(self) -> Reads:
        return Reads(source=Want.PROMPT, target=Want.PROMPT, layer=self.layer)

    @property
    def reference_reads(self) -> Reads:
        return self.policy_reads

    def __call__(
        self, policy: Scores, reference: Scores, retain: Number, separate: Number, align: Number, shift: Number
    ) -> RowLoss:
        """All per row, f32 (B,). Errors: those of `Subspaces.read`; a probe of another width, or one that lacks a language."""
        assert policy.rows is not None
        (h_d, h_t), (r_d, r_t) = ((scores.prompts["source"], scores.prompts["target"]) for scores in (policy, reference))
        D = h_d.shape[1]
        unit_D, specific_qD, shift_Kq = _placed(self.probe, D, policy.rows)
        shift_Bq = shift * jnp.take(shift_Kq, policy.rows.language_B, axis=0)
        retain_B = jnp.mean((h_d - r_d) ** 2, axis=1)
        moved_Bq = _along(h_t - r_t, specific_qD)
        separate_B = jnp.sum((moved_Bq - shift_Bq) ** 2, axis=1) / D
        align_B = jnp.sum(_along(h_d - h_t, unit_D[None]) ** 2, axis=1) / D
        length_B = jnp.maximum(jnp.sum(shift_Bq**2, axis=1), 1e-12)
        return RowLoss(
            loss_B=retain * retain_B + separate * separate_B + align * align_B,
            metrics_B={"loss/retain": retain_B, "loss/separate": separate_B, "loss/align": align_B},
            by_language_B={"moved": jnp.sum(moved_Bq * shift_Bq, axis=1) / length_B},
        )


def _along(x_BD: Array, basis_qD: np.ndarray) -> Array:
    """The coordinates of vectors along an orthonormal basis, (B, q), in float32 arithmetic on every backend."""
    return jnp.einsum("bd,qd->bq", x_BD, basis_qD, precision="highest")


def _placed(path: str, width: int, rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(u, M, the coordinates of the shift along M for each of the run's languages), float32."""
    found = Subspaces.read(path)
    if found.agnostic_D.shape != (width,):
        raise InputError(
            f"The probe {path} is of states of width {len(found.agnostic_D)}, but this model's have {width}: make it anew."
        )
    if lacking := [language for language in rows.languages if language not in found.languages]:
        raise InputError(
            f"The probe {path} does not have the language '{lacking[0]}' of the data, but has "
            f"{', '.join(found.languages)}: make it from prompts in all of the data's languages."
        )
    numbers = [found.languages.index(language) for language in rows.languages]
    unit_D = found.agnostic_D / np.linalg.norm(found.agnostic_D)
    shift_Kq = found.shift_KD[numbers] @ found.specific_qD.T
    return unit_D.astype(np.float32), found.specific_qD.astype(np.float32), shift_Kq.astype(np.float32)
