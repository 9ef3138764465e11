"""A prefill and steps give what the packed forward pass gives, of every family, at every offset, on any mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mpo_jax.devices.sharding import make_generation_mesh
from mpo_jax.generation import programs, shapes
from mpo_jax.generation.sampling import Draw
from mpo_jax.generation.weights import placed
from mpo_jax.models.layers import LinearScaling, Rope
from mpo_jax.types import Packed

GREEDY = Draw(None, None, None)
FAMILIES = {
    "llama": {},
    "gemma2": {
        "layer_windows": (3, None), "tied": True, "norm_offset": 1, "attn_softcap": 2.0, "final_softcap": 4.0,
        "norms": "both", "embed_scale": 32**0.5, "activation": "gelu_tanh",
    },
    "qwen2": {"qkv_bias": True, "tied": True, "layer_windows": (None, 3)},
    "qwen3": {"qk_norm": "head"},
    "gemma3": {"layer_windows": (3, None), "layer_ropes": (Rope(1e4), Rope(1e6, LinearScaling(8.0))), "qk_norm": "head"},
    "cohere2": {
        "layer_windows": (3, None), "layer_ropes": (Rope(1e4), None), "norm": "layer", "norms": "parallel",
        "rope_interleaved": True, "logit_scale": 0.3,
    },
    "olmo2": {"norms": "after", "qk_norm": "all"},
    "grouped": {"kv_heads": 2},
}  # fmt: skip
# (width, tensor) of eight devices; what remains holds copies
MESHES = {"one": (1, 1), "8,1,1": (1, 1), "1,1,8": (1, 8), "2,2,2": (2, 2)}
PROMPT, NEW = 8, 5


def mesh(name: str):
    width, tensor = MESHES[name]
    return make_generation_mesh(width=width, tensor=tensor, devices=jax.devices()[: 1 if name == "one" else 8])


def model_and_params(family: str):
    model = tiny.model(**FAMILIES[family])
    return model, tiny.two_params(model)[0]


def empty(model, rows, slots, on, dtype=jnp.float32):
    abstract = programs.abstract_cache(model, rows, slots, dtype, on)
    return jax.tree.map(lambda x: jnp.full(x.shape, 7.0, x.dtype, device=x.sharding), abstract)  # what an earlier batch left


def all_logits(model, params, tokens_ST):
    """Of the packed forward pass, at every position."""
    S, T = tokens_ST.shape
    ones, position = np.ones((S, T), np.int32), np.tile(np.arange(T, dtype=np.int32), (S, 1))
    hidden_STD = model.hidden(params, Packed(tokens_ST, position, ones, ones, *(np.zeros((S, 0), np.int32),) * 5))
    logits_STV = jnp.einsum("STD,VD->STV", model.readout(hidden_STD), model.unembedding(params))
    cap = model.final_softcap
    return logits_STV if cap is None else cap * jnp.tanh(logits_STV / cap)


def read(model, weights, on, prompt_BT, length_B):
    """The cache and the logits after a prefill in as many parts as `shapes.groups` makes."""
    copies = on.shape["data"]
    cache, logits_BV = empty(model, len(length_B), PROMPT + NEW, on), jnp.full((len(length_B), tiny.VOCAB), 7.0)
    program = jax.jit(functools.partial(programs.prefill, model))
    for first, tokens_GT, length_G in shapes.groups({"tokens_BT": prompt_BT, "length_B": length_B}, copies):
        cache, logits_BV = program(weights, cache, logits_BV, tokens_GT, length_G, np.int32(first))
    return cache, logits_BV


SPLIT = [  # two key/value heads cannot be split eight ways
    (family, on) for family in FAMILIES for on in MESHES if (family, on) != ("grouped", "1,1,8")
]
OF_EVERY_FAMILY = ("one", "2,2,2")


@pytest.mark.parametrize(
    ("family", "on"),
    [
        (family, on)
        if on in OF_EVERY_FAMILY or family in ("llama", "gemma2")
        else pytest.param(family, on, marks=pytest.mark.slow)
        for family, on in SPLIT
    ],
)
def test_prefill_and_steps_equal_the_packed_forward(family, on, monkeypatch):
    model, params = model_and_params(family)
    tokens_ST = np.random.default_rng(1).integers(0, tiny.VOCAB, (PROMPT, PROMPT + NEW)).astype(np.int32)
    length_B = np.arange(1, PROMPT + 1, dtype=np.int32)  # every offset between the prompt's end and the answer's first slot
    expected = all_logits(model, params, tokens_ST)
    with jax.set_mesh(on := mesh(on)):
        weights = placed(model, params, on, jnp.float32, consume=False)
        prompt_BT = np.where(np.arange(PROMPT)[None] < length_B[:, None], tokens_ST[:, :PROMPT], 5).astype(np.int32)
        monkeypatch.setattr(shapes, "READ", 2 * PROMPT)
        assert shapes.read_together(PROMPT, PROMPT, on.shape["data"]) == min(2, PROMPT // on.shape["data"])
        cache, logits_BV = read(model, weights, on, prompt_BT, length_B)
        rows = np.arange(PROMPT)
        np.testing.assert_allclose(logits_BV, expected[rows, length_B - 1], rtol=1e-5, atol=1e-5)
        step = jax.jit(functools.partial(programs.next_logits, model, prompt_slots=PROMPT))
        for number in range(NEW):
            at_B = length_B + number
            cache, logits_BV = step(weights, cache, tokens_ST[rows, at_B], length_B, np.int32(number))
            np.testing.assert_allclose(logits_BV, expected[rows, at_B], rtol=1e-5, atol=1e-5)


def greedy(model, params, tokens, limit, stop=()):
    """One row by itself, from the packed forward pass."""
    written = []
    while len(written) < limit:
        row = np.asarray([[*tokens, *written]], np.int32)
        written.append(int(jnp.argmax(all_logits(model, params, row)[0, -1])))
        if written[-1] in stop:
            break
    return written


def test_the_loop_stops_each_row_at_its_own_end():
    model, params = model_and_params("qwen2")
    tokens_BT = np.random.default_rng(2).integers(0, tiny.VOCAB, (4, PROMPT)).astype(np.int32)
    length_B, limit_B = np.asarray([8, 3, 5, 1], np.int32), np.asarray([5, 3, 5, 0], np.int32)
    free = [greedy(model, params, tokens_BT[row, :n], 5) for row, n in enumerate(length_B)]
    stop = (free[0][1], free[2][4])  # the first row ends in the middle, the third with its last token
    on = mesh("one")
    with jax.set_mesh(on):
        weights = placed(model, params, on, jnp.float32, consume=False)
        cache, logits_BV = read(model, weights, on, tokens_BT, length_B)
        _, answers = jax.jit(functools.partial(programs.decode, model, new_slots=NEW))(
            weights, cache, logits_BV, length_B, limit_B, np.zeros((4, 2), np.uint32), np.asarray(stop, np.int32), GREEDY
        )
    for row, n in enumerate(length_B):
        expected = greedy(model, params, tokens_BT[row, :n], limit_B[row], stop)
        count = int(answers.count_B[row])
        assert answers.tokens_BN[row, :count].tolist() == expected
        assert not np.any(answers.tokens_BN[row, count:])
        assert bool(answers.ended_B[row]) == (len(expected) > 0 and expected[-1] in stop)
    assert int(answers.steps) == max(int(x) for x in answers.count_B), "the loop ends with its last row"
