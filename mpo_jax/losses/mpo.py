"""Multilingual reward-gap MPO."""

import dataclasses

import jax.numpy as jnp

from mpo_jax.errors import InputError, check_choice
from mpo_jax.types import POOLINGS, Array, Pair, Reads, RowLoss, Scores, SequenceScores, Want


@dataclasses.dataclass
class Mpo:
    """Multilingual reward-gap MPO: the target gap follows the reference's gap in the dominant language.

        L = (beta RG_policy(target) - RG_ref(source))^2 + retain * ||h_policy(source) - h_ref(source)||^2

    W. Zhao et al., "MPO: Multilingual Safety Alignment via Reward Gap Optimization", ACL 2025, arXiv:2505.16869, eqs. 5 to 9.
    RG is the length-normalised reward gap in nats per token; h the pooled final-norm state of the dominant side, the mean of
    the chosen and the rejected sequence's distance being taken. The paper sums the squared distance over the model width and
    pools the prompt's last token; the authors' code means over the width and over every position (`retain_reduction`,
    `retain_pooling`; see `types.POOLINGS`). Their learning rates were tuned with the mean.
    """

    beta: float = 1.0
    retain: float = 1.0
    retain_pooling: str = "mean"
    retain_reduction: str = "mean"

    def __post_init__(self) -> None:
        check_choice("loss.retain_pooling", self.retain_pooling, POOLINGS)
        check_choice("loss.retain_reduction", self.retain_reduction, ("mean", "sum"))
        if self.beta <= 0 or self.retain < 0:
            raise InputError(f"loss.beta={self.beta} must be above 0 and loss.retain={self.retain} must not be negative.")

    @property
    def _retention(self) -> Want:
        return Want.HIDDEN if self.retain else Want.NOTHING

    @property
    def policy_reads(self) -> Reads:
        return Reads(source=self._retention, target=Want.LOGP, pooling=self.retain_pooling)

    @property
    def reference_reads(self) -> Reads:
        return Reads(source=Want.LOGP | self._retention, pooling=self.retain_pooling)

    def __call__(self, policy: Scores, reference: Scores) -> RowLoss:
        """All per row, f32 (B,)."""
        assert policy.target is not None and reference.source is not None
        gap_B = policy.target.mean_gap_B
        goal_B = reference.source.mean_gap_B
        error_B = self.beta * gap_B - goal_B
        gap_loss_B = error_B**2
        retain_loss_B = self.retention(policy.source, reference.source) if self.retain else jnp.zeros_like(gap_loss_B)
        correct_B = (gap_B > 0).astype(jnp.float32)
        return RowLoss(
            loss_B=gap_loss_B + self.retain * retain_loss_B,
            metrics_B={
                "loss/gap": gap_loss_B,
                "loss/retain": retain_loss_B,
                "rewards/chosen": self.beta * policy.target.chosen.mean_logp_B,
                "rewards/rejected": self.beta * policy.target.rejected.mean_logp_B,
                "rewards/accuracies": correct_B,
                "rewards/margins": self.beta * gap_B,
                "gap/goal": goal_B,
            },
            by_language_B={"gap": gap_B, "gap_error": jnp.abs(error_B), "weight": error_B, "accuracy": correct_B},
        )

    def retention(self, policy: Pair | None, reference: Pair) -> Array:
        """Distance of the dominant side's hidden states from the reference's (eq. 8), mean over the two answers, f32 (B,)."""
        assert policy is not None
        reduce = {"mean": jnp.mean, "sum": jnp.sum}[self.retain_reduction]

        def distance_B(h: SequenceScores, h_ref: SequenceScores) -> Array:
            assert h.hidden_BD is not None and h_ref.hidden_BD is not None
            return reduce((h.hidden_BD - h_ref.hidden_BD) ** 2, axis=-1)

        return (distance_B(policy.chosen, reference.chosen) + distance_B(policy.rejected, reference.rejected)) / 2
