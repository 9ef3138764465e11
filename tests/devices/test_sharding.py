"""What does not divide is an error that says everything, and host arrays arrive as they were."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import AbstractMesh, PartitionSpec

from mpo_jax.devices.sharding import RULES, MeshConfig, batch_to_mesh, constrain, host_to_global, make_mesh, named, shards, spec
from mpo_jax.errors import InputError
from mpo_jax.types import Pair, Scores, SequenceScores


@pytest.mark.parametrize(
    ("axes", "shape"),
    [((1, -1, 1), (1, 8, 1)), ((2, -1, 2), (2, 2, 2)), ((-1, 1, 8), (1, 1, 8)), ((8, 1, 1), (8, 1, 1)), ((1, 4, 2), (1, 4, 2))],
    ids=str,
)
def test_minus_one_takes_the_devices_that_are_left(axes, shape):
    mesh = make_mesh(MeshConfig(*axes))
    assert mesh.devices.shape == shape
    assert mesh.axis_names == ("data", "fsdp", "tensor")


@pytest.mark.parametrize("axes", [(3, -1, 1), (1, 4, 1), (16, 1, 1), (1, -1, 16)], ids=str)
def test_axes_whose_product_is_not_the_number_of_devices(axes):
    with pytest.raises(InputError, match=rf"data={axes[0]} fsdp={axes[1]} tensor={axes[2]} .*devices, 8.*product is 8"):
        make_mesh(MeshConfig(*axes))


@pytest.mark.parametrize("axes", [(-1, -1, 1), (0, -1, 1), (1, -2, 1)], ids=str)
def test_axes_that_mean_nothing(axes):
    with pytest.raises(InputError, match="is not possible: give each axis at least 1 device, or -1"):
        make_mesh(MeshConfig(*axes))


def test_one_device_of_many():
    assert make_mesh(MeshConfig(), jax.devices()[:1]).size == 1


def test_an_indivisible_dimension_names_parameter_shape_rule_and_mesh():
    mesh = AbstractMesh((2, 2, 4), ("data", "fsdp", "tensor"))
    with pytest.raises(InputError) as refused:
        named(mesh, ("layers", "embed", "kv_heads", "head_dim"), (2, 64, 6, 16), "layers.attention.k")
    for part in (
        "layers.attention.k",
        "(2, 64, 6, 16)",
        "'kv_heads' -> tensor",
        "6 entries",
        "{'data': 2, 'fsdp': 2, 'tensor': 4}",
    ):
        assert part in str(refused.value)


def test_a_dimension_over_two_axes_must_divide_their_product():
    mesh = tiny.mesh(2, 4, 1)
    assert shards(mesh, "batch") == 8
    assert named(mesh, ("batch", None), (16, 3), "x").spec == PartitionSpec(("data", "fsdp"), None)
    with pytest.raises(InputError, match=re.escape("splits it into 8 parts")):
        named(mesh, ("batch", None), (12, 3), "x")


def test_every_rule_names_axes_of_the_mesh():
    mesh = tiny.mesh(2, 2, 2)
    for axis in RULES:
        named(mesh, (axis,), (8,), axis)
    with pytest.raises(KeyError):
        spec(("no such axis",))


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 1, 1)], ids=str)
def test_host_arrays_arrive_as_they_were_where_their_rank_says(shape):
    mesh = tiny.mesh(*shape)
    tree = {"a_MS": np.arange(32).reshape(2, 16), "b_MST": np.arange(64.0).reshape(2, 8, 4), "c": np.float32(3)}
    with jax.transfer_guard("disallow"):
        placed = host_to_global(tree, mesh, (None, "batch"))
    for name, x in placed.items():
        np.testing.assert_array_equal(jax.device_get(x), tree[name])
        assert x.sharding.mesh == mesh
        assert x.addressable_shards[0].data.size * (shards(mesh, "batch") if x.ndim else 1) == x.size


def test_an_indivisible_batch_names_its_array():
    with pytest.raises(InputError, match=r"batch\['tokens'\] of shape \(1, 12\)"):
        host_to_global({"tokens": np.zeros((1, 12))}, tiny.mesh(8, 1, 1), (None, "batch"))


def test_packed_rows_are_split_and_scores_a_row_go_everywhere():
    batch = tiny.micro(tiny.batch(4), 1)
    scores = Scores(target=Pair(*(SequenceScores(np.zeros((1, 4), np.float32)) for _ in range(2))))
    placed = batch_to_mesh(dataclasses.replace(batch, reference=scores), tiny.mesh(2, 2, 1))
    assert placed.policy.tokens_ST.sharding.spec == PartitionSpec(None, ("data", "fsdp"), None)
    assert placed.reference.target.chosen.logp_B.sharding.is_fully_replicated
    assert placed.weight_B.sharding.is_fully_replicated
    placed = batch_to_mesh(dataclasses.replace(batch, reference=None), tiny.mesh(2, 2, 1))
    assert placed.reference is None


def test_an_intermediate_is_never_padded_to_fit():
    on = AbstractMesh((1, 8, 1), ("data", "fsdp", "tensor"))
    with jax.sharding.use_abstract_mesh(on):
        jax.eval_shape(lambda x: constrain(x, "batch", None), jax.ShapeDtypeStruct((16, 3), np.float32))
        with pytest.raises(AssertionError, match="batch"):
            jax.eval_shape(lambda x: constrain(x, "batch", None), jax.ShapeDtypeStruct((12, 3), np.float32))


def test_outside_a_mesh_nothing_is_constrained():
    x = np.ones(3)
    assert constrain(x, "batch") is x
