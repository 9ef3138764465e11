"""Simple preference optimisation."""

import dataclasses
from typing import ClassVar

import jax

from mpo_jax.losses.base import OneSided, row_loss
from mpo_jax.types import Number, RowLoss, Scores


@dataclasses.dataclass
class Simpo(OneSided):
    """Simple preference optimisation: length-normalised rewards without a reference, and a target margin.

        L = -log sigmoid(beta (a_w - a_l) - gamma),   a = log p(y | x) / |y|

    Y. Meng, M. Xia, D. Chen, "SimPO: Simple Preference Optimization with a Reference-Free Reward", NeurIPS 2024,
    arXiv:2405.14734, eq. 6. `gamma` is not multiplied by beta, as in the paper; the authors' code takes gamma / beta.
    """

    anchored: ClassVar[bool] = False
    beta: float = 2.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        self.check(beta=self.beta)

    def __call__(self, policy: Scores, reference: Scores, beta: Number, gamma: Number) -> RowLoss:
        """All per row, f32 (B,)."""
        pair = self.pair(policy)
        loss_B = -jax.nn.log_sigmoid(beta * pair.mean_gap_B - gamma)
        return row_loss(loss_B, pair, (beta * pair.chosen.mean_logp_B, beta * pair.rejected.mean_logp_B))
