"""The probe is made of the states that LENS reads, on any mesh."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
import toy_chat

from mpo_jax.data.pipeline import Pipeline
from mpo_jax.errors import InputError
from mpo_jax.scoring.language_probe import by_language, mean_state
from mpo_jax.scoring.sequences import score
from mpo_jax.types import Reads, Want

ROWS, EXAMPLES = toy_chat.rows(8), toy_chat.examples(8)
MODEL = tiny.model(vocab_size=264)
PARAMS, _ = tiny.two_params(MODEL)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_a_mean_is_of_the_states_that_a_method_reads(shape):
    reads = Reads(Want.PROMPT, Want.PROMPT)
    batch = jax.tree.map(lambda x: x[0], Pipeline(EXAMPLES, ("ko", "sw"), 8, 0, reads, Reads(), seed=None).batch_at(0))
    states = score(MODEL, PARAMS, batch.policy, reads, 8).prompts
    expected = {"en": states["source"][::2], "sw": states["target"][::2], "ko": states["target"][1::2]}
    prompts, on = by_language(ROWS, EXAMPLES), tiny.mesh(*shape)
    assert {language: len(found) for language, found in prompts.items()} == {"en": 4, "sw": 4, "ko": 4}
    with jax.set_mesh(on):
        params = tiny.place(MODEL, PARAMS, on)
        for language, found in prompts.items():
            mean = mean_state(MODEL, params, found, on, 0)
            np.testing.assert_allclose(mean, np.mean(np.asarray(expected[language], np.float64), axis=0), atol=1e-5)


def test_rows_of_which_none_can_be_made():
    with pytest.raises(InputError, match="row '0' has no 'source': take it out"):
        by_language(toy_chat.rows(2, source=False), toy_chat.examples(2, source=False))
    other = dataclasses.replace(ROWS[0], source=dataclasses.replace(ROWS[0].source, language="de"))
    with pytest.raises(InputError, match="one dominant language, but these rows have de, en"):
        by_language([*ROWS, other], [*EXAMPLES, EXAMPLES[0]])
