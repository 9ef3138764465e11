"""A linear combination of methods."""

import dataclasses
import functools
import operator

import jax.numpy as jnp

from mpo_jax.errors import InputError
from mpo_jax.losses.base import PreferenceLoss
from mpo_jax.types import KL, Array, Numbers, Reads, RowLoss, Scores, Want


@dataclasses.dataclass
class Sum:
    """A weighted sum of methods, each with a name of its own. DPO plus the likelihood of the chosen answer, for example, is

        Sum({"dpo": Dpo(), "nll": Sft()}, weights={"nll": 0.2})

        L = sum over names of weight * L_name,   weight 1 where none is given

    It reads what any of its terms reads. The metrics of a term are prefixed with its name, and `loss/<name>` is its unweighted
    loss.
    """

    terms: dict[str, PreferenceLoss]
    weights: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.terms:
            raise InputError("losses.Sum has no terms: give at least one, as in losses.Sum({'dpo': losses.Dpo()}).")
        for name, weight in self.weights.items():
            if name not in self.terms:
                raise InputError(f"loss.weights has '{name}', which is not a term: the terms are {', '.join(self.terms)}.")
            if not weight >= 0:
                raise InputError(f"loss.weights['{name}']={weight} must not be negative.")
        pooled = {term.policy_reads.pooling for term in self.terms.values() if _pools(term.policy_reads)}
        if len(pooled) > 1:
            ways = " and ".join(sorted(pooled))
            raise InputError(f"The terms of losses.Sum pool hidden states in different ways, {ways}: choose one for all.")
        for reads in (
            [term.policy_reads for term in self.terms.values()],
            [term.reference_reads for term in self.terms.values()],
        ):
            if len(layers := {one.layer for one in reads if one.prompts}) > 1:
                of = " and ".join(map(str, sorted(layers)))
                raise InputError(
                    f"The terms of losses.Sum read prompts at different layers, {of} (0 = the last): choose one for all."
                )
        if KL in self.policy_reads.source:
            raise InputError("The terms of losses.Sum use KL in both directions: choose one `retain_by` for all.")
        for view in ("mismatch", "parallel"):
            views = {name for term in self.terms.values() if (name := getattr(term.reference_reads, view))}
            if len(views) > 1:
                raise InputError(
                    f"The terms of losses.Sum read two kinds of {view} pairs, {' and '.join(sorted(views))}: choose one."
                )

    @property
    def policy_reads(self) -> Reads:
        return functools.reduce(operator.or_, (term.policy_reads for term in self.terms.values()))

    @property
    def reference_reads(self) -> Reads:
        return functools.reduce(operator.or_, (term.reference_reads for term in self.terms.values()))

    def __call__(self, policy: Scores, reference: Scores, terms: Numbers, weights: Numbers) -> RowLoss:
        """All per row, f32 (B,)."""
        losses_B: list[Array] = []
        metrics, by_language = {}, {}
        for name, term in self.terms.items():
            rows = term(policy, reference, **terms[name])
            losses_B.append(weights.get(name, 1.0) * rows.loss_B)
            metrics[f"loss/{name}"] = rows.loss_B
            metrics |= {f"{name}/{metric}": x_B for metric, x_B in rows.metrics_B.items()}
            by_language |= {f"{name}/{metric}": x_B for metric, x_B in rows.by_language_B.items()}
        return RowLoss(functools.reduce(jnp.add, losses_B), metrics, by_language)


def _pools(reads: Reads) -> bool:
    return Want.HIDDEN in reads.source | reads.target
