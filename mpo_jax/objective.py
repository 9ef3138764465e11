"""How do a model and a method become one pure function? The only weighted mean over rows is here."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mpo_jax.losses.base import PreferenceLoss
from mpo_jax.scoring import score, score_view
from mpo_jax.types import Array, Batch, Mean, Objective, Pair, Params, Scores, Want, Whole


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
        with jax.named_scope("policy"):
            policy = score(self.model, params, batch, self.loss.policy_reads, ref_params)
        reference = batch.reference
        if reference is None:
            with jax.named_scope("reference"):
                reference = jax.lax.stop_gradient(self._reference(ref_params, batch))
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

    def _reference(self, ref_params: Params, batch: Batch) -> Scores:
        reads = self.loss.reference_reads
        scores = score(self.model, ref_params, batch, reads)
        if not reads.parallel:
            return scores
        return dataclasses.replace(scores, parallel=score_view(self.model, ref_params, batch, batch.parallel))

    def whole(self, params: Params, ref_params: Params, batch: Batch) -> Whole:
        """`batch` with its microbatch axis. Nothing here has a gradient, so the mismatched pairs have no backward pass."""
        reads = self.loss.policy_reads
        rows = jnp.sum(batch.weight_B)
        sides = {"source": batch.source, "target": batch.target}
        count = {
            side: jnp.sum((packed.answer_slot_SA >= 0) & (packed.answer_slot_SA % 2 == 0)) / rows
            for side, packed in sides.items()
            if packed is not None and Want.LOGP in getattr(reads, side)
        }
        if not reads.mismatch:
            return Whole(count)

        def all_rows(params: Params) -> Pair:
            return _flat(jax.lax.map(lambda micro: score_view(self.model, params, micro, micro.mismatch), batch))

        stored = batch.reference.mismatch if batch.reference is not None else None
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


def _flat(pair: Any) -> Pair:
    """(M, B) -> (M * B,)."""
    return jax.tree.map(lambda x: x.reshape(-1), pair)
