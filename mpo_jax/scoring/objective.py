"""How do a model and a method become one pure function? Here is the only weighted mean over rows."""

import dataclasses

import jax
import jax.numpy as jnp

from mpo_jax.losses.base import PreferenceLoss, numbers_of
from mpo_jax.scoring.language_model import LanguageModel
from mpo_jax.scoring.sequences import divergences, flat, narrowed, score, score_all
from mpo_jax.types import (
    ANSWERS,
    PAIR_KINDS,
    Array,
    Batch,
    Mean,
    Metrics,
    Numbers,
    Packed,
    Pair,
    Params,
    Reads,
    Rows,
    Scores,
    SequenceScores,
    Want,
)


@dataclasses.dataclass(frozen=True, eq=False)  # a hash of its identity, so that programs can be compiled for it
class Task:
    """What is learnt: a model, by a method. `languages`: the names to which `Batch.language_B` refers by index."""

    model: LanguageModel
    loss: PreferenceLoss
    languages: tuple[str, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BatchTotals:
    """What a microbatch must know about the whole batch; constants for the gradient. What the method does not read is None."""

    chosen_count: dict[str, Array]  # side -> mean number of tokens of a chosen answer, f32 ()
    policy: Pair | None = None  # scores of the mismatched pairs, all rows
    reference: Pair | None = None


def objective(
    task: Task,
    params: Params,
    ref_params: Params,
    batch: Batch,
    totals: BatchTotals | None = None,
    numbers: Numbers | None = None,
) -> tuple[Mean, Metrics]:
    """(loss over the rows, metrics) of a batch without its microbatch axis, packed for what the method reads.

    The batch's arrays are global under `jit`, so a mean over its rows is a mean over all devices. Reference scores that come with
    the batch are used as they are; otherwise the frozen reference runs here, if the method reads it. The metric of a language
    that is not in the batch has weight 0.

    `totals`: the result of `batch_totals` for all microbatches; None if there is only this one. `numbers`: those of the method's
    equation, by default the values of its fields (`losses.base.numbers_of`).
    """
    if totals is None:
        totals = batch_totals(task, params, ref_params, jax.tree.map(lambda x: x[None], batch))
    return _of_scores(task, _scores(task, params, batch), params, ref_params, batch, totals, numbers)


def evaluation(
    task: Task, params: Params, ref_params: Params, batch: Batch, totals: BatchTotals, numbers: Numbers
) -> tuple[Mean, Metrics, Scores]:
    """`objective`, of a batch packed for `Batching.evaluating`, and from the same forward pass the policy's log-probabilities of
    both sides' answers."""
    answers = Reads.answers(source=True)
    scores = _scores(task, params, batch, answers)
    own = _of_scores(task, narrowed(scores, task.loss.policy_reads), params, ref_params, batch, totals, numbers)
    return *own, narrowed(scores, answers)


def _scores(task: Task, params: Params, batch: Batch, beside: Reads = Reads()) -> Scores:  # noqa: B008
    """The policy's, for the method and for what is read `beside` it."""
    with jax.named_scope("policy"):
        reads = (task.loss.policy_reads | beside).of_rows
        return score(task.model, params, batch.policy, reads, batch.weight_B.shape[0])


def _of_scores(
    task: Task,
    policy: Scores,
    params: Params,
    ref_params: Params,
    batch: Batch,
    totals: BatchTotals,
    numbers: Numbers | None,
) -> tuple[Mean, Metrics]:
    """`objective`, from the policy's scores."""
    model, loss, B = task.model, task.loss, batch.weight_B.shape[0]
    if batch.divergence is not None:
        with jax.named_scope("divergence"):
            policy = _compared(policy, divergences(model, params, ref_params, batch.divergence, loss.policy_reads, B))
    reference = batch.reference
    if isinstance(reference, Packed):
        with jax.named_scope("reference"):
            reference = jax.lax.stop_gradient(score(model, ref_params, reference, loss.reference_reads.of_rows, B))
    if reference is None:
        reference = Scores()
    if policy.prompts:
        policy, reference = (_of_every_row(scores, batch) for scores in (policy, reference))
        policy = dataclasses.replace(policy, rows=_rows(batch, task.languages))
    rows = loss(
        dataclasses.replace(_counted(policy, totals), mismatch=totals.policy),
        dataclasses.replace(reference, mismatch=totals.reference),
        **(numbers_of(loss) if numbers is None else numbers),
    )

    def mean(x_B: Array) -> Mean:
        return Mean.of(x_B, batch.weight_B)

    metrics = {name: mean(x_B) for name, x_B in rows.metrics_B.items()}
    scored = [pair for pair in (policy.target, policy.source) if pair is not None and pair.chosen.logp_B is not None]
    for pair in scored[:1]:
        metrics["logps/chosen"] = mean(pair.chosen.sum_logp_B)
        metrics["logps/rejected"] = mean(pair.rejected.sum_logp_B)
    for index, language in enumerate(task.languages):
        weight_B = batch.weight_B * (batch.language_B == index).astype(jnp.float32)
        metrics |= {f"{name}/{language}": Mean.of(x_B, weight_B) for name, x_B in rows.by_language_B.items()}
    return mean(rows.loss_B), metrics


def batch_totals(task: Task, params: Params, ref_params: Params, batch: Batch) -> BatchTotals:
    """The totals of a batch with its microbatch axis. Nothing here has a gradient, so mismatched pairs have no backward pass."""
    reads = task.loss.policy_reads
    B, slot, rows = batch.weight_B.shape[1], batch.policy.answer_slot_SA, jnp.sum(batch.weight_B)
    count = {
        name: jnp.sum((slot >= 0) & (slot // (len(ANSWERS) * B) == kind) & (slot // B % len(ANSWERS) == 0)) / rows
        for kind, name in enumerate(PAIR_KINDS)
        if Want.LOGP in reads.of_rows.want(name)
    }
    if not reads.mismatch:
        return BatchTotals(count)
    assert batch.mismatch is not None, "packed for another method"
    mismatched = batch.mismatch

    def all_rows(params: Params) -> Pair | None:
        return score_all(task.model, params, mismatched, Reads(mismatch=reads.mismatch), B).mismatch

    stored = batch.reference.mismatch if isinstance(batch.reference, Scores) else None
    with jax.named_scope("mismatch"):
        policy = jax.lax.stop_gradient(all_rows(params))
        return BatchTotals(count, policy, flat(stored) if stored is not None else jax.lax.stop_gradient(all_rows(ref_params)))


def _counted(policy: Scores, totals: BatchTotals) -> Scores:
    """Adds the whole batch's mean number of tokens to the scores of the chosen answers."""
    pairs = {}
    for kind, count in totals.chosen_count.items():
        pair = getattr(policy, kind)
        pairs[kind] = dataclasses.replace(pair, chosen=dataclasses.replace(pair.chosen, batch_mean_count=count))
    return dataclasses.replace(policy, **pairs)


def _of_every_row(scores: Scores, batch: Batch) -> Scores:
    """Gives every row the state of its dominant prompt, which the first row with that prompt has."""
    if "source" not in scores.prompts:
        return scores
    return dataclasses.replace(scores, prompts=scores.prompts | {"source": scores.prompts["source"][batch.prompt_B]})


def _rows(batch: Batch, languages: tuple[str, ...]) -> Rows:
    assert batch.prompt_B is not None, "packed for another method"
    return Rows(batch.weight_B, batch.language_B, batch.prompt_B, languages, batch.group)


def _compared(policy: Scores, found: dict[str, tuple[SequenceScores, SequenceScores]]) -> Scores:
    """Adds the divergences of each side to the scores."""
    pairs = {}
    for side, answers in found.items():
        pair = getattr(policy, side) or Pair(SequenceScores(), SequenceScores())
        both = zip((pair.chosen, pair.rejected), answers, strict=True)
        pairs[side] = Pair(*(dataclasses.replace(old, kl_B=new.kl_B, count_B=new.count_B) for old, new in both))
    return dataclasses.replace(policy, **pairs)
