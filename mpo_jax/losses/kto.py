"""Kahneman-Tversky optimisation."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mpo_jax.errors import InputError
from mpo_jax.losses.base import OneSided, row_loss
from mpo_jax.types import Array, Number, Pair, RowLoss, Scores


@dataclasses.dataclass
class Kto(OneSided):
    """Kahneman-Tversky optimisation: each answer is compared with a reference point, and the two answers of a pair are added.

        L = chosen_weight (1 - sigmoid(beta r_w - z0)) + rejected_weight (1 - sigmoid(z0 - beta r_l)),   r = log p/p_ref (y | x)
        z0 = beta max(0, mean r of mismatched pairs), without gradient, over the whole batch

    K. Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", ICML 2024, arXiv:2402.01306, eq. 7,
    where sigmoid(beta (r - z)) scales the estimated divergence by beta like the reward. A mismatched pair is a prompt with the
    answers of another row.
    """

    anchored: ClassVar[bool] = True
    mismatched: ClassVar[bool] = True
    beta: float = 0.1
    chosen_weight: float = 1.0
    rejected_weight: float = 1.0

    def __post_init__(self) -> None:
        self.check(beta=self.beta)
        if self.chosen_weight < 0 or self.rejected_weight < 0:
            raise InputError(
                f"loss.chosen_weight={self.chosen_weight} and loss.rejected_weight={self.rejected_weight} must not be negative."
            )

    def __call__(
        self, policy: Scores, reference: Scores, beta: Number, chosen_weight: Number, rejected_weight: Number
    ) -> RowLoss:
        """All per row, f32 (B,)."""
        z0 = beta * divergence(policy.mismatch, reference.mismatch)
        chosen_B, rejected_B = (beta * ratio_B for ratio_B in self.log_ratios(policy, reference))
        # 1 - sigmoid(x) = sigmoid(-x)
        loss_B = chosen_weight * jax.nn.sigmoid(z0 - chosen_B) + rejected_weight * jax.nn.sigmoid(rejected_B - z0)
        return row_loss(loss_B, self.pair(policy), (chosen_B, rejected_B), {"z0": jnp.broadcast_to(z0, loss_B.shape)})


def divergence(policy: Pair | None, reference: Pair | None) -> Array:
    """max(0, mean of log p/p_ref over all mismatched pairs of the batch), nats, f32 (). Rows that only fill up the batch have no
    tokens and do not count."""
    assert policy is not None and reference is not None
    ratios, used = [], []
    for ours, theirs in ((policy.chosen, reference.chosen), (policy.rejected, reference.rejected)):
        assert ours.count_B is not None
        ratios.append(ours.sum_logp_B - theirs.sum_logp_B)
        used.append(ours.count_B > 0)
    if len(ratios[0]) < 2:
        raise InputError("KTO needs a batch_size of at least 2, since its reference point comes from the answers of other rows.")
    used_R = jnp.concatenate(used)
    total = jnp.sum(jnp.where(used_R, jnp.concatenate(ratios), 0.0))
    return jax.lax.stop_gradient(jnp.maximum(total / jnp.maximum(used_R.sum(), 1), 0.0))
