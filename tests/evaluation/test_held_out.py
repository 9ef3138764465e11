"""One pass gives the metrics and the gaps of two; a text weighs what it has of tokens."""

import math
from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toy_chat

from mpo_jax import losses
from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.dataset import Batching
from mpo_jax.data.pair_views import mismatched
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.evaluation.held_out import evaluate, measure_gaps, measure_perplexity, row_gaps
from mpo_jax.models.parameters import Frozen
from mpo_jax.scoring.objective import Task, batch_totals, objective
from mpo_jax.scoring.sequences import make_score_step
from mpo_jax.training.step import make_eval_step, over_microbatches
from mpo_jax.training.step_arguments import step_numbers
from mpo_jax.types import Reads, Scores, Want

LENGTHS = (2, 3, 15)
MODEL = tiny.model(vocab_size=264, layers=1, layer_windows=(None,))
METHODS = {  # and microbatches
    "target side": (losses.Sft(), 1),
    "dominant side": (losses.Dpo(side="source"), 1),
    "padded states": (losses.Mpo(retain_pooling="mean_padded"), 1),
    "distributions": (losses.Mpo(retain_by="kl_of_reference"), 1),
    "prompts": (losses.Cla(layer=1), 1),
    "all rows of a prompt, mismatched ones": (losses.Sum({"mlc": losses.Mlc(), "kto": losses.Kto()}), 2),
}


@pytest.mark.parametrize(("loss", "parts"), METHODS.values(), ids=METHODS)
def test_one_pass_gives_the_metrics_and_the_gaps_of_two(loss, parts):
    """A method sees nothing of what is read for the gaps alone. Of the ten rows none lies beside the other one of its prompt."""
    order = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
    rows, examples = ([of(10)[i] for i in order] for of in (toy_chat.rows, toy_chat.examples))
    if side := loss.policy_reads.mismatch:
        examples = mismatched(examples, side, 64)
    batching = Batching(
        4, loss.policy_reads, loss.reference_reads, microbatches=parts, group=2 if loss.policy_reads.groups else 1
    )
    (policy, reference), on = tiny.two_params(MODEL), tiny.mesh()
    task, numbers = Task(MODEL, loss, ("ko", "sw")), step_numbers(loss, 1.0)

    def pipeline(of):
        return Pipeline(examples, ("ko", "sw"), pad_id=0, **{field.name: getattr(of, field.name) for field in fields(of)})

    @jax.jit
    def of_the_method(trainable, frozen, batch, numbers):
        totals = batch_totals(task, trainable, frozen.reference, batch)
        one = lambda micro: objective(task, trainable, frozen.reference, micro, totals, numbers["loss"])  # noqa: E731
        loss, metrics = over_microbatches(one, batch)
        return metrics | {"loss": loss}, Scores()

    passes = {batching.evaluating(True): make_eval_step(task, jnp.float32), batching: of_the_method}
    both, alone = (evaluate(step, policy, Frozen({}, reference), numbers, pipeline(of), on) for of, step in passes.items())
    scale = max(1, *(abs(both.metrics.get(f"eval_logps/{answer}", 0)) for answer in ("chosen", "rejected")))
    assert both.metrics == pytest.approx(alone.metrics, rel=1e-5, abs=1e-6 * scale)
    gaps = row_gaps(both.scores, pipeline(batching.evaluating(True)), rows)
    measuring = pipeline(batching.measuring(True))
    expected = measure_gaps(make_score_step(MODEL, jnp.float32, measuring.policy), policy, measuring, rows, on)
    for name in ("target_gap", "source_gap"):
        np.testing.assert_allclose(*([getattr(gap, name) for gap in found] for found in (gaps, expected)), rtol=1e-4, atol=1e-5)
    unnumbered = {"target_gap": 0, "source_gap": 0}
    assert [replace(gap, **unnumbered) for gap in gaps] == [replace(gap, **unnumbered) for gap in expected]
    assert len({round(gap.target_gap, 6) for gap in gaps}) == 10


def test_perplexity_is_a_mean_over_tokens():
    """Texts of different lengths in one language, beside each of them in a language of its own."""
    model, reads = tiny.model(), Reads(target=Want.LOGP)
    params = tiny.two_params(model)[0]
    params["embedding"] *= 10  # so that texts differ in what a token costs
    step = make_score_step(model, jnp.float32, reads)

    def of(languages):
        examples = []
        for i, (length, language) in enumerate(zip(LENGTHS, languages, strict=True)):
            answer = np.random.default_rng(i).integers(1, tiny.VOCAB, length).astype(np.int32)
            examples.append(Example(str(i), language, None, TokenPair(np.asarray([1, 2], np.int32), answer, answer)))
        pipeline = Pipeline(examples, ["a", "b", "c"], 2, 0, reads, Reads(), seed=None)  # the second batch is filled up
        return measure_perplexity(step, params, pipeline, tiny.mesh())

    alone = of("abc")
    costs = [math.log(alone[language]) for language in "abc"]
    assert max(costs) - min(costs) > 0.3
    together = of("aaa")
    assert list(together) == ["a"]
    assert math.log(together["a"]) == pytest.approx(np.average(costs, weights=LENGTHS), rel=1e-5)
