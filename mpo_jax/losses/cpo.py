"""Contrastive preference optimisation."""

import dataclasses
from typing import ClassVar

import jax

from mpo_jax.errors import InputError, check_choice
from mpo_jax.losses.base import NLL_REDUCTIONS, OneSided, nll, row_loss
from mpo_jax.types import Number, RowLoss, Scores


@dataclasses.dataclass
class Cpo(OneSided):
    """Contrastive preference optimisation: DPO with a uniform reference, plus the likelihood of the chosen answer.

        L = -log sigmoid(beta (log p(w | x) - log p(l | x))) + lam NLL(w)

    H. Xu et al., "Contrastive Preference Optimization: Pushing the Boundaries of LLM Performance in Machine Translation",
    ICML 2024, arXiv:2401.08417. `lam` is its lambda. `nll_reduction`: see `base.NLL_REDUCTIONS`; the paper has the sum, the
    authors' code the mean over the batch's tokens.
    """

    anchored: ClassVar[bool] = False
    beta: float = 0.1
    lam: float = 1.0
    nll_reduction: str = "token_mean"

    def __post_init__(self) -> None:
        self.check(beta=self.beta)
        check_choice("loss.nll_reduction", self.nll_reduction, NLL_REDUCTIONS)
        if self.lam < 0:
            raise InputError(f"loss.lam={self.lam} must not be negative.")

    def __call__(self, policy: Scores, reference: Scores, beta: Number, lam: Number) -> RowLoss:
        """All per row, f32 (B,)."""
        pair = self.pair(policy)
        preference_B = -jax.nn.log_sigmoid(beta * pair.gap_B)
        nll_B = nll(pair.chosen, self.nll_reduction)
        rewards = (beta * pair.chosen.sum_logp_B, beta * pair.rejected.sum_logp_B)
        return row_loss(preference_B + lam * nll_B, pair, rewards, {"loss/preference": preference_B, "loss/nll": nll_B})
