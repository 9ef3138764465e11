"""How do a model and a method become one pure function? The only weighted mean over rows is here."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mpo_jax.losses.base import PreferenceLoss
from mpo_jax.scoring.sequences import divergences, score, score_all
from mpo_jax.types import (
    ANSWERS,
    SIDES,
    Array,
    Batch,
    Mean,
    Objective,
    Packed,
    Pair,
    Params,
    Reads,
    Scores,
    SequenceScores,
    Want,
    Whole,
)


def make_objective(model: Any, loss: PreferenceLoss, languages: tuple[str, ...]) -> Objective:
    """(params, ref_params, batch) -> (loss, metrics).

    The batch's arrays are global under `jit`, so a mean over its rows is the mean over the pod. Reference scores that come
    with the batch are used as they are; otherwise the frozen reference is forwarded here, if the method reads any of it.
    `languages` names the indices of `Batch.language_B`; the metric of a language that is not in the batch has weight 0.
    """
    return _Objective(model, loss, languages)


@dataclasses.dataclass(frozen=True, eq=False)  # a hash of its identity, so that it can be compiled
class _Objective:
    model: Any
    loss: PreferenceLoss
    languages: tuple[str, ...]

    def __call__(
        self, params: Params, ref_params: Params, batch: Batch, whole: Whole | None = None
    ) -> tuple[Mean, dict[str, Mean]]:
        if whole is None:
            whole = self.whole(params, ref_params, jax.tree.map(lambda x: x[None], batch))
        B = batch.weight_B.shape[0]
        with jax.named_scope("policy"):
            policy = score(self.model, params, batch.policy, self.loss.policy_reads.of_rows, B)
        if batch.divergence is not None:
            with jax.named_scope("divergence"):
                reads = self.loss.policy_reads
                policy = _compared(policy, divergences(self.model, params, ref_params, batch.divergence, reads, B))
        reference = batch.reference
        if isinstance(reference, Packed):
            with jax.named_scope("reference"):
                reference = jax.lax.stop_gradient(score(self.model, ref_params, reference, self.loss.reference_reads.of_rows, B))
        if reference is None:
            reference = Scores()
        rows = self.loss(
            dataclasses.replace(_counted(policy, whole), mismatch=whole.policy),
            dataclasses.replace(reference, mismatch=whole.reference),
        )

        def mean(x_B: Array) -> Mean:
            return Mean.of(x_B, batch.weight_B)

        metrics = {name: mean(x_B) for name, x_B in rows.metrics_B.items()}
        scored = [pair for pair in (policy.target, policy.source) if pair is not None and pair.chosen.logp_B is not None]
        for pair in scored[:1]:
            metrics["logps/chosen"] = mean(pair.chosen.sum_logp_B)
            metrics["logps/rejected"] = mean(pair.rejected.sum_logp_B)
        for index, language in enumerate(self.languages):
            weight_B = batch.weight_B * (batch.language_B == index).astype(jnp.float32)
            metrics |= {f"{name}/{language}": Mean.of(x_B, weight_B) for name, x_B in rows.by_language_B.items()}
        return mean(rows.loss_B), metrics

    def whole(self, params: Params, ref_params: Params, batch: Batch) -> Whole:
        """`batch` with its microbatch axis. Nothing here has a gradient, so the mismatched pairs have no backward pass."""
        reads = self.loss.policy_reads
        B, slot, rows = batch.weight_B.shape[1], batch.policy.answer_slot_SA, jnp.sum(batch.weight_B)
        count = {
            name: jnp.sum((slot >= 0) & (slot // (len(ANSWERS) * B) == side) & (slot // B % len(ANSWERS) == 0)) / rows
            for side, name in enumerate(SIDES)
            if Want.LOGP in reads.of_rows.want(name)
        }
        if not reads.mismatch:
            return Whole(count)
        assert batch.mismatch is not None, "packed for another method"
        mismatched = batch.mismatch

        def all_rows(params: Params) -> Pair | None:
            return score_all(self.model, params, mismatched, Reads(mismatch=reads.mismatch), B).mismatch

        stored = batch.reference.mismatch if isinstance(batch.reference, Scores) else None
        with jax.named_scope("mismatch"):
            policy = jax.lax.stop_gradient(all_rows(params))
            return Whole(count, policy, _flat(stored) if stored is not None else jax.lax.stop_gradient(all_rows(ref_params)))


def _counted(policy: Scores, whole: Whole) -> Scores:
    """The scores with the whole batch's mean number of tokens beside those of the chosen answers."""
    pairs = {}
    for side, count in whole.chosen_count.items():
        pair = getattr(policy, side)
        pairs[side] = dataclasses.replace(pair, chosen=dataclasses.replace(pair.chosen, batch_mean_count=count))
    return dataclasses.replace(policy, **pairs)


def _compared(policy: Scores, found: dict[str, tuple[SequenceScores, SequenceScores]]) -> Scores:
    """The scores with the divergences of their sides."""
    pairs = {}
    for side, answers in found.items():
        pair = getattr(policy, side) or Pair(SequenceScores(), SequenceScores())
        both = zip((pair.chosen, pair.rejected), answers, strict=True)
        pairs[side] = Pair(*(dataclasses.replace(old, kl_B=new.kl_B, count_B=new.count_B) for old, new in both))
    return dataclasses.replace(policy, **pairs)


def _flat(pair: Any) -> Pair:
    """(M, B) -> (M * B,)."""
    return jax.tree.map(lambda x: x.reshape(-1), pair)
