"""Robust DPO (rDPO): labels that are flipped at a known rate. Not R-DPO, which is in `length_regularized_dpo`."""

import dataclasses
from typing import ClassVar

import jax

from mpo_jax.errors import InputError
from mpo_jax.losses.base import OneSided, row_loss
from mpo_jax.types import Number, RowLoss, Scores


@dataclasses.dataclass
class RobustDpo(OneSided):
    """Robust DPO: an unbiased estimate of DPO's loss where a share `epsilon` of the pairs is the wrong way round.

        L = ((1 - epsilon) (-log sigmoid(beta z)) - epsilon (-log sigmoid(-beta z))) / (1 - 2 epsilon),   z as in DPO

    S. Ray Chowdhury, A. Kini, N. Natarajan, "Provably Robust DPO: Aligning Language Models with Noisy Feedback", ICML 2024,
    arXiv:2403.00409. Not cDPO, which adds the two terms: its optimum is a margin, this one's is DPO's.
    """

    anchored: ClassVar[bool] = True
    beta: float = 0.1
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        self.check(beta=self.beta)
        if not 0 <= self.epsilon < 0.5:
            raise InputError(
                f"loss.epsilon={self.epsilon}, the share of flipped labels, must be from 0 up to, but not including, 0.5, since "
                "the loss divides by 1 - 2 epsilon."
            )

    def __call__(self, policy: Scores, reference: Scores, beta: Number, epsilon: Number) -> RowLoss:
        """All per row, f32 (B,)."""
        chosen_B, rejected_B = self.log_ratios(policy, reference)
        margin_B = beta * (chosen_B - rejected_B)
        kept_B, flipped_B = -jax.nn.log_sigmoid(margin_B), -jax.nn.log_sigmoid(-margin_B)
        loss_B = ((1 - epsilon) * kept_B - epsilon * flipped_B) / (1 - 2 * epsilon)
        return row_loss(loss_B, self.pair(policy), (beta * chosen_B, beta * rejected_B))
