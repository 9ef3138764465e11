"""Length-regularised DPO (R-DPO). Not rDPO, which is in `robust_dpo`."""

import dataclasses
from typing import ClassVar

import jax

from mpo_jax.losses.base import OneSided, row_loss
from mpo_jax.types import Number, RowLoss, Scores


@dataclasses.dataclass
class LengthRegularizedDpo(OneSided):
    """Length-regularised DPO: the longer the chosen answer, the less its margin counts.

        L = -log sigmoid(beta z + alpha (|w| - |l|)),   z as in DPO

    R. Park et al., "Disentangling Length from Quality in Direct Preference Optimization", Findings of ACL 2024,
    arXiv:2403.19159. Lengths are in tokens, the end token included. A negative `alpha` prefers the opposite; some tables print
    the term with that sign.
    """

    anchored: ClassVar[bool] = True
    beta: float = 0.1
    alpha: float = 0.05

    def __post_init__(self) -> None:
        self.check(beta=self.beta)

    def __call__(self, policy: Scores, reference: Scores, beta: Number, alpha: Number) -> RowLoss:
        """All per row, f32 (B,)."""
        pair = self.pair(policy)
        assert pair.chosen.count_B is not None and pair.rejected.count_B is not None
        chosen_B, rejected_B = self.log_ratios(policy, reference)
        longer_B = pair.chosen.count_B - pair.rejected.count_B
        loss_B = -jax.nn.log_sigmoid(beta * (chosen_B - rejected_B) + alpha * longer_B)
        return row_loss(loss_B, pair, (beta * chosen_B, beta * rejected_B), {"longer": longer_B})
