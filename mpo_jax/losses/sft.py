"""Supervised fine-tuning on the chosen answers."""

import dataclasses
from typing import ClassVar

from mpo_jax.errors import check_choice
from mpo_jax.losses.base import NLL_REDUCTIONS, OneSided, nll, row_loss
from mpo_jax.types import RowLoss, Scores


@dataclasses.dataclass
class Sft(OneSided):
    """Supervised fine-tuning: the negative log-likelihood of the chosen answers.

        L = -log p(w | x) / |w|

    Table 7 of W. Zhao et al., arXiv:2505.16869; as in L. Ouyang et al., "Training language models to follow instructions with
    human feedback", NeurIPS 2022, arXiv:2203.02155. `reduction`: see `base.NLL_REDUCTIONS`. The rejected answers are read only
    for the metrics.
    """

    anchored: ClassVar[bool] = False
    reduction: str = "row_mean"

    def __post_init__(self) -> None:
        self.check()
        check_choice("loss.reduction", self.reduction, NLL_REDUCTIONS)

    def __call__(self, policy: Scores, reference: Scores) -> RowLoss:
        """All per row, f32 (B,)."""
        pair = self.pair(policy)
        return row_loss(nll(pair.chosen, self.reduction), pair, (pair.chosen.mean_logp_B, pair.rejected.mean_logp_B))
