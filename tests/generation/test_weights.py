"""Weights in the form for generation: what the model declares, on another mesh, a matrix each, and nothing held twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mpo_jax.devices.sharding import make_generation_mesh
from mpo_jax.errors import InputError
from mpo_jax.generation.mesh_choice import generation_mesh, possible
from mpo_jax.generation.weights import abstract_placed, as_declared, placed

MODEL = tiny.model(qkv_bias=True, norms="both")


def mesh(width: int, tensor: int):
    return make_generation_mesh(width=width, tensor=tensor, devices=jax.devices())


@pytest.mark.parametrize(("width", "tensor"), [(1, 1), (2, 2), (1, 8)])
@pytest.mark.parametrize("training", [(1, 8, 1), (2, 2, 2)], ids=str)
def test_parameters_in_training_are_brought_over(training, width, tensor):
    params = tiny.place(MODEL, tiny.two_params(MODEL)[0], tiny.mesh(*training))
    on = mesh(width, tensor)
    found = placed(MODEL, params, on, jnp.float32, consume=False)
    expected = abstract_placed(MODEL, on, jnp.float32)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, like in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (x.shape, x.dtype) == (like.shape, like.dtype)
        assert x.sharding.is_equivalent_to(like.sharding, x.ndim)
    declared = as_declared(MODEL, found)
    for i, layer in enumerate(declared["layers"]):
        jax.tree.map(lambda x, stack, i=i: np.testing.assert_array_equal(x, stack[i]), layer, params["layers"])
    np.testing.assert_array_equal(declared["embedding"], params["embedding"])
    assert not any(x.is_deleted() for x in jax.tree.leaves(params)), "training goes on with them"


def test_a_stack_goes_when_its_layers_are_there():
    params = tiny.place(MODEL, tiny.two_params(MODEL)[0], tiny.mesh(1, 8, 1))
    found = placed(MODEL, params, mesh(1, 2), jnp.bfloat16, consume=True)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
    kept = placed(MODEL, jax.tree.map(jnp.copy, tiny.two_params(MODEL)[0]), mesh(1, 2), jnp.bfloat16, consume=False)
    jax.tree.map(np.testing.assert_array_equal, found, kept)


def test_matrices_have_their_outputs_first():
    layer = abstract_placed(MODEL, mesh(1, 1), jnp.float32)["layers"][0]
    c = MODEL.config
    assert layer["attention"]["q"].shape == (c.heads * c.head_dim, c.hidden_size)
    assert layer["attention"]["o"].shape == (c.hidden_size, c.heads * c.head_dim)
    assert layer["mlp"]["gate"].shape == (c.ffn, c.hidden_size)
    assert layer["mlp"]["down"].shape == (c.hidden_size, c.ffn)
    assert layer["attention"]["q_bias"].shape == (c.heads, c.head_dim)


def test_as_few_devices_as_have_room(monkeypatch):
    size = 4 * sum(x.size for x in jax.tree.leaves(MODEL.abstract()))
    chosen = []
    for room in (size, 4 * size, size / 2, size / 4):
        stats = {"bytes_limit": room}
        monkeypatch.setattr(type(jax.local_devices()[0]), "memory_stats", lambda self, stats=stats: stats, raising=False)
        chosen.append(generation_mesh(MODEL, jnp.float32)[0].shape["tensor"])
    assert chosen == [2, 1, 4, 8]
    stats = {"bytes_limit": size / 20}
    monkeypatch.setattr(type(jax.local_devices()[0]), "memory_stats", lambda self: stats, raising=False)
    with pytest.raises(InputError, match=r"too much for 8 devices .* give tensor=8 and a width, or more devices"):
        generation_mesh(MODEL, jnp.float32)
    assert possible(MODEL, 8) == [1, 2, 4, 8] and possible(tiny.model(kv_heads=2), 8) == [1, 2]


def test_a_mesh_that_does_not_divide_the_model_names_the_axis():
    with pytest.raises(
        InputError, match=r"its axis 'kv_heads' has 2 entries, but the rule 'kv_heads' -> tensor splits it into 4"
    ):
        generation_mesh(tiny.model(kv_heads=2), jnp.float32, tensor=4)
