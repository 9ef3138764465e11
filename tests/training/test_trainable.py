"""The two trees of a policy's parameters are the whole, and what is trained of it learns as it would alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mpo_jax.errors import InputError
from mpo_jax.losses import Mpo
from mpo_jax.losses.base import numbers_of
from mpo_jax.models.parameters import Frozen, joined
from mpo_jax.scoring.objective import Task
from mpo_jax.training.step import loss_and_grads
from mpo_jax.training.trainable import names, split

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
    ],
)
def test_names_that_mean_nothing(frozen, words):
    with pytest.raises(InputError, match=words):
        split(MODEL.abstract(), frozen)


def test_an_array_is_in_one_tree():
    with pytest.raises(AssertionError, match="both trainable and frozen"):
        joined({"a": {"b": 1}}, {"a": {"b": 2}})
    assert dataclasses.fields(Frozen)[0].name == "policy"
