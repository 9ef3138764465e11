"""Odds ratio preference optimisation."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mpo_jax.errors import InputError
from mpo_jax.losses.base import OneSided, nll, row_loss
from mpo_jax.types import Array, Number, RowLoss, Scores

CLOSEST_TO_ONE = -1e-6  # above this mean log-probability, odds in float32 would be infinite


@dataclasses.dataclass
class Orpo(OneSided):
    """Odds ratio preference optimisation: supervised fine-tuning, and the odds of the chosen against the rejected answer.

        L = -a_w + lam (-log sigmoid(log odds(w) - log odds(l))),   a = log p(y | x) / |y|,   odds = e^a / (1 - e^a)

    J. Hong, N. Lee, J. Thorne, "ORPO: Monolithic Preference Optimization without Reference Model", EMNLP 2024,
    arXiv:2403.07691, eqs. 4 to 7. `lam` is its lambda.
    """

    anchored: ClassVar[bool] = False
    lam: float = 0.1

    def __post_init__(self) -> None:
        self.check()
        if self.lam < 0:
            raise InputError(f"loss.lam={self.lam} must not be negative.")

    def __call__(self, policy: Scores, reference: Scores, lam: Number) -> RowLoss:
        """All per row, f32 (B,)."""
        pair = self.pair(policy)
        chosen_B, rejected_B = pair.chosen.mean_logp_B, pair.rejected.mean_logp_B
        odds_B = log_odds(chosen_B) - log_odds(rejected_B)
        ratio_B, nll_B = -jax.nn.log_sigmoid(odds_B), nll(pair.chosen, "row_mean")
        parts = {"loss/odds_ratio": ratio_B, "loss/nll": nll_B, "log_odds": odds_B}
        return row_loss(nll_B + lam * ratio_B, pair, (lam * chosen_B, lam * rejected_B), parts)


def log_odds(a: Array) -> Array:
    """log(p / (1 - p)) of p = exp(a), a <= 0, finite in value and gradient."""
    a = jnp.minimum(a, CLOSEST_TO_ONE)
    near_one = a > -jnp.log(2.0)
    # Each branch gets an argument with a finite gradient: where() alone would multiply 0 by infinity.
    close, far = jnp.where(near_one, a, -1.0), jnp.where(near_one, -1.0, a)
    return a - jnp.where(near_one, jnp.log(-jnp.expm1(close)), jnp.log1p(-jnp.exp(far)))
