"""What a model of the small world writes is what its likelihoods make most probable."""

import jax
import jax.numpy as jnp
import numpy as np

from mpo_jax.experiments.learning import MODEL
from mpo_jax.experiments.world import END, World, held_out
from mpo_jax.experiments.writing import Ids, make_engine, make_write
from mpo_jax.types import Packed

REQUESTS = 6


def most_probable(params, prompt: np.ndarray) -> int:
    """The next token, by a forward pass over the whole prompt."""
    tokens_ST = jnp.asarray(prompt)[None]
    ones_ST, none = jnp.ones_like(tokens_ST), jnp.zeros((1, 0), jnp.int32)
    position_ST = jnp.arange(len(prompt), dtype=jnp.int32)[None]
    nowhere = jnp.zeros_like(tokens_ST)
    packed = Packed(tokens_ST, position_ST, ones_ST, ones_ST, none, none, none, nowhere, jnp.zeros(tokens_ST.shape))
    hidden_STD = MODEL.hidden(params, packed)
    logits_V = jnp.einsum("d,vd->v", hidden_STD[0, -1], MODEL.unembedding(params))
    return int(jnp.argmax(logits_V))


def test_the_shares_are_those_of_the_most_probable_openings():
    """Whatever the random model says first is declared to be the word that refuses, or complies."""
    params = jax.tree.map(lambda x: 5 * x, MODEL.init(jax.random.key(0)))
    world = World(0)
    firsts = [most_probable(params, world.prompt("a", request)) for request in held_out(0, REQUESTS, unsafe=True)]
    refusing, complying = firsts[0], next((first for first in firsts if first != firsts[0]), END)
    for word, token in {"no": refusing, "yes": complying}.items():
        world.tokens["a"][(word, 0)] = np.asarray([token], np.int32)
    found = make_write(world, 0, REQUESTS, make_engine(REQUESTS))(params)
    assert found["writes_refusal/a"] == firsts.count(refusing) / REQUESTS
    assert found["writes_compliance/a"] == firsts.count(complying) / REQUESTS
    assert found["writes_refusal/a"] > 0


def test_text_is_ids():
    chat = Ids()
    assert chat.decode([5, 17, END]) == "5 17"
