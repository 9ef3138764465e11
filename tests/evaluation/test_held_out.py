"""A text weighs what it has of tokens."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.evaluation.held_out import measure_perplexity
from mpo_jax.scoring.sequences import make_score_step
from mpo_jax.types import Reads, Want

LENGTHS = (2, 3, 15)


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
