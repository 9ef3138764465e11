"""Multilingual reward-gap MPO."""

import dataclasses
import math

import jax.numpy as jnp

from mpo_jax.errors import InputError, check_choice
from mpo_jax.types import POOLINGS, Array, Number, Pair, Reads, RowLoss, Scores, SequenceScores, Want

GAP_TARGETS = ("reference", "policy")
RETENTIONS = {"hidden": Want.HIDDEN, "kl_of_policy": Want.KL_OF_POLICY, "kl_of_reference": Want.KL_OF_REFERENCE}


@dataclasses.dataclass
class Mpo:
    """Multilingual reward-gap MPO: the target gap follows the reference's gap in the dominant language.

        L = (beta RG_policy(target) - RG_ref(source))^2 + retain * ||h_policy(source) - h_ref(source)||^2

    W. Zhao et al., "MPO: Multilingual Safety Alignment via Reward Gap Optimization", ACL 2025, arXiv:2505.16869, eqs. 5 to 9.
    RG is the length-normalised reward gap in nats per token. h is the pooled state of the dominant side after the final norm; the
    distance is averaged over the chosen and the rejected sequence. The paper sums the squared distance over the model width and
    takes the state of the prompt's last token; the authors' code averages over the width and over every position
    (`retain_reduction`, `retain_pooling`; see `types.POOLINGS`). Their learning rates were tuned with these averages.

    The paper's ablations: `retain=0` removes the second term. `retain_by` compares the next-token distributions of the dominant
    side's two answers instead of hidden states: KL(policy || reference) with 'kl_of_policy', KL(reference || policy) with
    'kl_of_reference', averaged over an answer's tokens; the paper gives neither the direction nor the weight.
    `rg_normalize=False` takes sums over tokens for both gaps ("w/o LN"). `gap_target` is what the target gap is pulled to:
    'reference', the reference's dominant gap; 'policy', the policy's own dominant gap, with gradient through both gaps
    ("MPO-Policy"); a constant, such as '1.58'; or the reference's gap in another language of the data, such as 'ar', for the same
    dominant prompt.
    """

    beta: float = 1.0
    retain: float = 1.0
    retain_pooling: str = "mean"
    retain_reduction: str = "mean"
    retain_by: str = "hidden"
    rg_normalize: bool = True
    gap_target: str = "reference"

    def __post_init__(self) -> None:
        check_choice("loss.retain_pooling", self.retain_pooling, POOLINGS)
        check_choice("loss.retain_reduction", self.retain_reduction, ("mean", "sum"))
        check_choice("loss.retain_by", self.retain_by, tuple(RETENTIONS))
        if self.beta <= 0 or self.retain < 0:
            raise InputError(f"loss.beta={self.beta} must be above 0, and loss.retain={self.retain} must not be negative.")
        if self.gap_target not in GAP_TARGETS and self.constant is None and not self.gap_target.isalpha():
            raise InputError(
                f"loss.gap_target='{self.gap_target}' is not known: write 'reference', 'policy', a number such as '1.58', or the "
                "code of a language of the data."
            )

    @property
    def constant(self) -> float | None:
        """`gap_target` as a number, if it is one."""
        try:
            number = float(self.gap_target)
        except ValueError:
            return None
        return number if math.isfinite(number) else None

    @property
    def language(self) -> str:
        """`gap_target` as a language, if it is one; the data decides whether that language exists."""
        return "" if self.gap_target in GAP_TARGETS or self.constant is not None else self.gap_target

    @property
    def retention_reads(self) -> Want:
        """What the retention of the dominant side reads from either model."""
        return RETENTIONS[self.retain_by] if self.retain > 0 else Want.NOTHING

    @property
    def policy_reads(self) -> Reads:
        dominant_gap = Want.LOGP if self.gap_target == "policy" else Want.NOTHING
        return Reads(source=dominant_gap | self.retention_reads, target=Want.LOGP, pooling=self.retain_pooling)

    @property
    def reference_reads(self) -> Reads:
        dominant_gap = Want.LOGP if self.gap_target == "reference" else Want.NOTHING
        return Reads(source=dominant_gap | self.retention_reads, parallel=self.language, pooling=self.retain_pooling)

    def __call__(self, policy: Scores, reference: Scores, beta: Number, retain: Number) -> RowLoss:
        """All per row, f32 (B,)."""
        assert policy.target is not None
        chosen_B, rejected_B = self.reward(policy.target.chosen), self.reward(policy.target.rejected)
        gap_B = chosen_B - rejected_B
        goal_B = self.goal(policy, reference, gap_B)
        error_B = beta * gap_B - goal_B
        gap_loss_B = error_B**2
        retain_loss_B = self.retention(policy.source, reference.source) if self.retention_reads else jnp.zeros_like(gap_loss_B)
        correct_B = (gap_B > 0).astype(jnp.float32)
        return RowLoss(
            loss_B=gap_loss_B + retain * retain_loss_B,
            metrics_B={
                "loss/gap": gap_loss_B,
                "loss/retain": retain_loss_B,
                "rewards/chosen": beta * chosen_B,
                "rewards/rejected": beta * rejected_B,
                "rewards/accuracies": correct_B,
                "rewards/margins": beta * gap_B,
                "gap/goal": goal_B,
            },
            by_language_B={"gap": gap_B, "gap_error": jnp.abs(error_B), "weight": error_B, "accuracy": correct_B},
        )

    def reward(self, answer: SequenceScores) -> Array:
        """f32 (B,), nats per token, or nats without length normalisation."""
        return answer.mean_logp_B if self.rg_normalize else answer.sum_logp_B

    def goal(self, policy: Scores, reference: Scores, like_B: Array) -> Array:
        """The value that the target gap is pulled to, f32 (B,)."""
        if self.constant is not None:
            return jnp.full_like(like_B, self.constant)
        dominant = (policy if self.gap_target == "policy" else reference).source
        pair = reference.parallel if self.language else dominant
        assert pair is not None
        return self.reward(pair.chosen) - self.reward(pair.rejected)

    def retention(self, policy: Pair | None, reference: Pair | None) -> Array:
        """The distance of the dominant side's hidden states from the reference's (eq. 8), or the divergence of its next-token
        distributions; mean over the two answers, f32 (B,)."""
        assert policy is not None
        if self.retain_by != "hidden":
            return (policy.chosen.mean_kl_B + policy.rejected.mean_kl_B) / 2
        assert reference is not None
        reduce = {"mean": jnp.mean, "sum": jnp.sum}[self.retain_reduction]

        def distance_B(h: SequenceScores, h_ref: SequenceScores) -> Array:
            assert h.hidden_BD is not None and h_ref.hidden_BD is not None
            return reduce((h.hidden_BD - h_ref.hidden_BD) ** 2, axis=-1)

        return (distance_B(policy.chosen, reference.chosen) + distance_B(policy.rejected, reference.rejected)) / 2
