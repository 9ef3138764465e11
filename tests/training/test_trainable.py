"""The two trees of a policy's parameters are the whole, and what is trained of it learns as it would alone."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mpo_jax.devices.sharding import batch_to_mesh
from mpo_jax.errors import InputError
from mpo_jax.losses import Mpo
from mpo_jax.losses.base import numbers_of
from mpo_jax.models.adapters import LoraConfig
from mpo_jax.models.parameters import LAYERS, TOP, Frozen, first_reached, in_stack, joined, uncut
from mpo_jax.scoring.objective import Task
from mpo_jax.training.optim import OptimConfig, make_optimizer
from mpo_jax.training.step import loss_and_grads
from mpo_jax.training.trainable import abstract_trainable, loaded, names, split

MODEL = tiny.model()
WHOLE, REFERENCE = tiny.two_params(MODEL)


@pytest.mark.parametrize("frozen", ["", "embedding", "layers.attention.q,final_norm", "layers"])
def test_the_parts_make_the_whole(frozen):
    trainable, rest = split(WHOLE, frozen)
    assert names(trainable).isdisjoint(names(rest)) and names(trainable) | names(rest) == names(WHOLE)
    assert all(any(name == one or name.startswith(f"{one}.") for one in frozen.split(",")) for name in names(rest))
    again = joined(trainable, rest)
    assert jax.tree.structure(again) == jax.tree.structure(WHOLE)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(WHOLE), strict=True))


def test_the_gradient_of_what_is_trained_is_that_of_the_whole():
    task, batch, numbers = Task(MODEL, Mpo(), tiny.LANGUAGES), tiny.micro(tiny.batch(4), 2), numbers_of(Mpo())
    trainable, rest = split(WHOLE, "embedding,layers.mlp")
    gradient = jax.jit(lambda *parts: loss_and_grads(task, *parts, batch, numbers))
    loss, _, of_all = gradient(WHOLE, Frozen({}, REFERENCE))
    same, _, of_part = gradient(trainable, Frozen(rest, REFERENCE))
    np.testing.assert_allclose(loss.value, same.value, rtol=1e-6)
    expected, _ = split(of_all, "embedding,layers.mlp")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max()), of_part, expected)


def test_policy_and_reference_may_share_what_is_frozen():
    """As with an adapter: one copy of the arrays, and at the start no distance from the reference."""
    trainable, rest = split(REFERENCE, "layers")
    frozen = Frozen(rest, joined(jax.tree.map(jnp.copy, trainable), rest))
    _, metrics, _ = loss_and_grads(Task(MODEL, Mpo(), ()), trainable, frozen, tiny.micro(tiny.batch(4), 1), numbers_of(Mpo()))
    assert float(metrics["loss/retain"].value) == 0
    assert frozen.policy["layers"]["mlp"]["up"] is frozen.reference["layers"]["mlp"]["up"]


@pytest.mark.parametrize(
    ("frozen", "words"),
    [
        ("embeding", "this model has no parameters 'embeding': choose from embedding, .*layers.attention"),
        ("layers.mlp.u", "no parameters 'layers.mlp.u'"),
        ("embedding,unembedding,layers,final_norm", "leaves nothing to train"),
        ("embedding,unembedding,layers:1,layers,final_norm", "leaves nothing to train"),
        ("layers:2", "this model has 2 layers, so N of layers:2 must be below that"),
        ("layers:1,layers:1", "names the first layers twice"),
    ],
)
def test_names_that_mean_nothing(frozen, words):
    with pytest.raises(InputError, match=words):
        split(MODEL.abstract(), frozen)


def test_an_array_is_in_one_tree():
    with pytest.raises(AssertionError, match="both trainable and frozen"):
        joined({"a": {"b": 1}}, {"a": {"b": 2}})
    assert dataclasses.fields(Frozen)[0].name == "policy"


DEEP = tiny.model(layers=5, layer_windows=(None,) * 5)
POLICY, BESIDE = tiny.two_params(DEEP)
BELOW = "layers:3,embedding,unembedding,final_norm"  # the upper two layers are trained


def gradients(model, policy, reference, frozen, on, batch):
    """Of what is trained, and the loss."""
    trainable, rest = split(policy, frozen)
    with jax.set_mesh(on):
        task, placed = Task(model, Mpo(), tiny.LANGUAGES), batch_to_mesh(batch, on)
        both = Frozen(rest, reference)
        loss, _, found = jax.jit(lambda *a: loss_and_grads(task, *a, numbers_of(Mpo())))(trainable, both, placed)
        return float(loss.value), jax.device_get(found)


@pytest.mark.parametrize("frozen", [BELOW, "layers:1", "layers:4,layers.mlp,embedding"])
def test_the_gradient_of_the_upper_layers_is_their_part_of_the_whole(frozen):
    batch, on = tiny.micro(tiny.batch(4), 2), tiny.mesh()
    loss, of_all = gradients(DEEP, POLICY, BESIDE, "", on, batch)
    same, of_part = gradients(DEEP, POLICY, BESIDE, frozen, on, batch)
    np.testing.assert_allclose(loss, same, rtol=1e-6)
    expected, _ = split(of_all, frozen)
    assert LAYERS not in of_part and TOP in of_part
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max()), of_part, expected)


def test_eight_devices_train_the_upper_layers_as_one_does():
    batch, model = tiny.micro(tiny.batch(8), 1), DEEP
    loss, one = gradients(model, POLICY, BESIDE, BELOW, tiny.mesh(), batch)
    on = tiny.mesh(2, 2, 2)
    same, eight = gradients(model, *(tiny.place(model, x, on) for x in (POLICY, BESIDE)), BELOW, on, batch)
    np.testing.assert_allclose(loss, same, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max()), eight, one)
    shapes = split(model.abstract(on), BELOW)
    assert {x.sharding.spec for x in jax.tree.leaves(shapes[0])} <= {x.sharding.spec for x in jax.tree.leaves(model.abstract(on))}


def test_no_gradient_of_a_frozen_layer_is_computed():
    """A gradient of stacked weights is written layer by layer into a stack of zeros."""

    def stacks_written(frozen):
        trainable, rest = split(DEEP.abstract(), frozen)
        task, batch = Task(DEEP, Mpo(), ()), tiny.micro(tiny.batch(4), 1)
        lowered = jax.jit(lambda *a: loss_and_grads(task, *a, numbers_of(Mpo()))).lower(
            trainable, Frozen(rest, DEEP.abstract()), batch
        )
        written = re.findall(r"dynamic_update_slice .*-> tensor<(\d+)x1x32x64xf32>", lowered.as_text())
        return {int(layers) for layers in written}

    assert stacks_written("") == {5}
    assert stacks_written(BELOW) == {2}
    assert stacks_written("layers:3") == {2}, "although the gradient goes on to the embedding"


def test_parameters_in_two_stacks_are_found_layer_by_layer_and_put_together():
    trainable, rest = split(POLICY, BELOW)
    whole = joined(trainable, rest)
    for layer in range(5):
        stack, number = in_stack(whole, "layers.mlp.up", layer, 5)
        np.testing.assert_array_equal(stack[number], POLICY["layers"]["mlp"]["up"][layer])
    assert in_stack(trainable, "layers.mlp.up", 2, 5)[0] is None and in_stack(trainable, "embedding", None, 5) == (None, None)
    again = uncut(whole)
    assert jax.tree.structure(again) == jax.tree.structure(POLICY)
    jax.tree.map(np.testing.assert_array_equal, again, POLICY)
    assert [first_reached(split(POLICY, of)[0], 5) for of in (BELOW, "", "layers:3", "embedding,layers")] == [3, 0, 0, 5]


def test_a_part_is_loaded_by_the_names_and_numbers_of_its_layers():
    def load(_dtype, wanted, layers):
        def one(path, x):
            return x[layers.start : layers.stop] if path.startswith("layers") else x

        flat = {path: one(path, in_stack(POLICY, path, None, 5)[0]) for path in wanted}
        tree = {}
        for path, x in flat.items():
            *groups, last = path.split(".")
            node = tree
            for group in groups:
                node = node.setdefault(group, {})
            node[last] = x
        return tree

    for frozen in (BELOW, "", "layers:2,layers.attention", "embedding"):
        for of_model, part in zip(split(POLICY, frozen), split(DEEP.abstract(), frozen), strict=True):
            found = loaded(load, None, part, 5)
            assert jax.tree.structure(found) == jax.tree.structure(of_model)
            jax.tree.map(np.testing.assert_array_equal, found, of_model)


def test_layers_that_alternate_are_cut_between_periods():
    model = tiny.model(layers=4, layer_windows=(4, None, 4, None))
    policy, reference = tiny.two_params(model)
    with pytest.raises(InputError, match="layers alternate, so N of layers:1 must be a multiple of 2"):
        abstract_trainable(model, "layers:1", LoraConfig())
    batch = tiny.micro(tiny.batch(2), 1)
    loss, of_all = gradients(model, policy, reference, "", tiny.mesh(), batch)
    same, of_part = gradients(model, policy, reference, "layers:2", tiny.mesh(), batch)
    np.testing.assert_allclose(loss, same, rtol=1e-6)
    np.testing.assert_allclose(of_part[TOP]["mlp"]["up"], of_all[LAYERS]["mlp"]["up"][2:], rtol=1e-4, atol=1e-6)


def test_factored_moments_are_those_of_each_layer_in_either_stack():
    rng = np.random.default_rng(0)
    weights, slopes = (rng.normal(size=(3, 130, 140)).astype(np.float32) for _ in range(2))
    optimizer = make_optimizer(OptimConfig(kind="adafactor", warmup=0.0), 10)

    def updated(name):
        state = optimizer.transform.init({name: {"w": weights}})
        return optimizer.transform.update({name: {"w": slopes}}, state, {name: {"w": weights}})[0][name]["w"]

    np.testing.assert_array_equal(updated(TOP), updated(LAYERS))
