"""How do a model and a method become one pure function? The only weighted mean over rows is here."""

from typing import Any

import jax
import jax.numpy as jnp

from mpo_jax.losses.base import PreferenceLoss
from mpo_jax.scoring import score
from mpo_jax.types import Array, Batch, Mean, Objective, Packed, Params, Scores


def make_objective(model: Any, loss: PreferenceLoss, languages: tuple[str, ...]) -> Objective:
    """(params, ref_params, batch) -> (loss, metrics).

    The batch's arrays are global under `jit`, so a mean over its rows is the mean over the pod. Reference scores that come
    with the batch are used as they are; otherwise the frozen reference is forwarded here. `languages` names the indices of
    `Batch.language_B`; the metric of a language that is not in the batch has weight 0.
    """

    def objective(params: Params, ref_params: Params, batch: Batch) -> tuple[Mean, dict[str, Mean]]:
        B = batch.weight_B.shape[0]
        with jax.named_scope("policy"):
            policy = score(model, params, batch.policy, loss.policy_reads, B)
        reference = batch.reference
        if isinstance(reference, Packed):
            with jax.named_scope("reference"):
                reference = jax.lax.stop_gradient(score(model, ref_params, reference, loss.reference_reads, B))
        if reference is None:
            reference = Scores()
        rows = loss(policy, reference)

        def mean(x_B: Array) -> Mean:
            return Mean.of(x_B, batch.weight_B)

        metrics = {name: mean(x_B) for name, x_B in rows.metrics_B.items()}
        assert policy.target is not None and policy.target.chosen.logp_B is not None and policy.target.rejected.logp_B is not None
        metrics["logps/chosen"] = mean(policy.target.chosen.logp_B)
        metrics["logps/rejected"] = mean(policy.target.rejected.logp_B)
        for index, language in enumerate(languages):
            weight_B = batch.weight_B * (batch.language_B == index).astype(jnp.float32)
            metrics |= {f"{name}/{language}": Mean.of(x_B, weight_B) for name, x_B in rows.by_language_B.items()}
        return mean(rows.loss_B), metrics

    return objective
