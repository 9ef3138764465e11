"""Identity preference optimisation."""

import dataclasses
from typing import ClassVar

from mpo_jax.losses.base import OneSided, row_loss
from mpo_jax.types import Number, RowLoss, Scores


@dataclasses.dataclass
class Ipo(OneSided):
    """Identity preference optimisation.

        L = (z - 1 / (2 tau))^2,   z = log p/p_ref (w | x) - log p/p_ref (l | x)

    M. G. Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences", AISTATS 2024,
    arXiv:2310.12036, eq. 17. The paper has sums over tokens; `length_normalize` divides each log-ratio by the length of its
    answer, as TRL, HALOs and LLaMA-Factory do.
    """

    anchored: ClassVar[bool] = True
    tau: float = 0.1
    length_normalize: bool = True

    def __post_init__(self) -> None:
        self.check(tau=self.tau)

    def __call__(self, policy: Scores, reference: Scores, tau: Number) -> RowLoss:
        """All per row, f32 (B,)."""
        pair, anchor = self.pair(policy), self.pair(reference)
        chosen_B, rejected_B = self.log_ratios(policy, reference)
        if self.length_normalize:
            chosen_B = pair.chosen.mean_logp_B - anchor.chosen.mean_logp_B
            rejected_B = pair.rejected.mean_logp_B - anchor.rejected.mean_logp_B
        loss_B = (chosen_B - rejected_B - 1 / (2 * tau)) ** 2
        return row_loss(loss_B, pair, (tau * chosen_B, tau * rejected_B))
