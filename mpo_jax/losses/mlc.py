"""Multilingual consistency of a prompt's states."""

import dataclasses

import jax
import jax.numpy as jnp

from mpo_jax.errors import InputError
from mpo_jax.types import Array, Number, Reads, RowLoss, Scores, Want

TINY = 1e-12  # added to a square before its root: gradients are then finite at 0


@dataclasses.dataclass
class Mlc:
    """Multilingual consistency: the states of one prompt in all its languages are to have one direction.

        L = -log softmax(sigma / (temperature sigma_1))[1],   sigma_1 >= sigma_2 >= ... the singular values of Z

    "Align Once, Benefit Multilingually: Enforcing Multilingual Consistency for LLM Safety Alignment", ICLR 2026,
    arXiv:2602.16660. A row of Z, for each language, is the state of the prompt's last token divided by its length, so Z has rank
    one where the loss is least. The divisor sigma_1 is a constant for the gradient. Layer and temperature are those of the
    authors' code; it adds 0.8 times this loss to DPO on the dominant side, at every second step only, and computes it from a
    trained projection of the states to 512 numbers that is not part of the exported model. Here the loss counts at every step and
    there is no projection. `layer`: the states after so many layers; 0 = those after the final norm.

    It is meant for a sum, and reads prompts alone. All rows of a dominant prompt come together.
    """

    temperature: float = 0.2
    layer: int = 0

    def __post_init__(self) -> None:
        check_layer(self.layer)
        if not self.temperature > 0:
            raise InputError(f"loss.temperature={self.temperature} must be above 0.")

    @property
    def policy_reads(self) -> Reads:
        return Reads(source=Want.PROMPT, target=Want.PROMPT, layer=self.layer, groups=True)

    @property
    def reference_reads(self) -> Reads:
        return Reads()

    def __call__(self, policy: Scores, reference: Scores, temperature: Number) -> RowLoss:
        """All per row, f32 (B,). A row has the loss of its prompt."""
        assert policy.rows is not None
        group, weight_B = policy.rows.group, policy.rows.weight_B
        source_BD, target_BD = unit(policy.prompts["source"]), unit(policy.prompts["target"])
        B, D = target_BD.shape
        # The G prompts of the batch in K languages: the dominant one, then the targets, zeros where a language is missing.
        states_GKD = jnp.concatenate([source_BD[::group, None], target_BD.reshape(B // group, group, D)], axis=1)
        languages_G = 1 + jnp.sum(weight_B.reshape(-1, group), axis=1)
        sigma_GK = singular_values(states_GKD)
        there_GK = jnp.arange(group + 1)[None] < languages_G[:, None]
        logits_GK = sigma_GK / (temperature * jax.lax.stop_gradient(sigma_GK[:, :1]))
        loss_G = -jax.nn.log_softmax(jnp.where(there_GK, logits_GK, -jnp.inf), axis=1)[:, 0]
        share_G = sigma_GK[:, 0] ** 2 / languages_G  # the squares add up to the number of unit vectors
        return RowLoss(
            loss_B=jnp.repeat(loss_G, group),
            metrics_B={"consistency": jnp.repeat(share_G, group)},
            by_language_B={"cosine": jnp.sum(source_BD * target_BD, axis=1)},
        )


def check_layer(layer: int) -> None:
    """Refuses a negative number of layers."""
    if layer < 0:
        raise InputError(f"loss.layer={layer} must be a number of layers, or 0 for the states after the final norm.")


def unit(x_BD: Array) -> Array:
    """Each vector divided by its length, (B, D); zeros stay zeros."""
    return x_BD * jax.lax.rsqrt(jnp.sum(x_BD**2, axis=-1, keepdims=True) + TINY)


def singular_values(x_GKD: Array) -> Array:
    """The singular values of G matrices with K rows, in descending order, f32 (G, K). Those below 1e-3 of the largest
    are known to be so small, and no more exactly: their squares are below the rounding of X X^T.

    They are |u^T X| for the eigenvectors u of X X^T, which is K x K. The gradient of a simple singular value is u v^T with
    v = X^T u / sigma: that of |u^T X| where u is held fixed. So it is never longer than 1, also where values coincide or vanish,
    and any choice of u among the eigenvectors of a multiple value gives the gradient of a function that is symmetric in them.
    """
    exact = jax.lax.Precision.HIGHEST
    gram_GKK = jnp.einsum("gkd,gld->gkl", x_GKD, x_GKD, precision=exact)
    u_GKK = jax.lax.stop_gradient(jnp.linalg.eigh(gram_GKK)[1][..., ::-1])
    projected_GKD = jnp.einsum("gkj,gkd->gjd", u_GKK, x_GKD, precision=exact)
    return jnp.sqrt(jnp.sum(projected_GKD**2, axis=-1) + TINY)
