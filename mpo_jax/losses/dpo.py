"""Direct preference optimisation."""

import dataclasses
from typing import ClassVar

import jax

from mpo_jax.losses.base import OneSided, row_loss
from mpo_jax.types import Number, RowLoss, Scores


@dataclasses.dataclass
class Dpo(OneSided):
    """Direct preference optimisation.

        L = -log sigmoid(beta z),   z = log p/p_ref (w | x) - log p/p_ref (l | x)

    R. Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", NeurIPS 2023,
    arXiv:2305.18290, eq. 7. Log-probabilities are sums over tokens.
    """

    anchored: ClassVar[bool] = True
    beta: float = 0.1

    def __post_init__(self) -> None:
        self.check(beta=self.beta)

    def __call__(self, policy: Scores, reference: Scores, beta: Number) -> RowLoss:
        """All per row, f32 (B,)."""
        chosen_B, rejected_B = self.log_ratios(policy, reference)
        loss_B = -jax.nn.log_sigmoid(beta * (chosen_B - rejected_B))
        return row_loss(loss_B, self.pair(policy), (beta * chosen_B, beta * rejected_B))
