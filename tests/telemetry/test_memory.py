"""Bytes are those of the arrays that there are, and rematerialisation keeps what its name says."""

import jax
import jax.numpy as jnp
import pytest
import tiny

from mpo_jax.models.decoder import Model
from mpo_jax.telemetry.memory import Line, bytes_on, kept_bytes, table
from mpo_jax.training.optim import OptimConfig, make_optimizer
from mpo_jax.training.step import HOST, abstract_state

MODEL = tiny.model()
WEIGHTS = sum(x.size for x in jax.tree.leaves(MODEL.abstract()))
COUNTS = 4  # Adam's number of updates


@pytest.mark.parametrize(
    ("settings", "device", "host"),
    [
        ({}, 8 * WEIGHTS + COUNTS, 0),
        ({"moments_dtype": "bfloat16"}, 4 * WEIGHTS + COUNTS, 0),
        ({"offload": True}, COUNTS, 8 * WEIGHTS),
    ],
)
def test_moments_by_hand(settings, device, host):
    on = tiny.mesh()
    moments = abstract_state(MODEL.abstract(on), make_optimizer(OptimConfig(**settings), 10), on).opt_state
    assert (bytes_on(moments), bytes_on(moments, HOST)) == (device, host)


def test_a_device_holds_its_part():
    on = tiny.mesh(2, 2, 2)
    placed = tiny.place(MODEL, tiny.two_params(MODEL)[0], on)
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(placed))
    assert bytes_on(placed) == bytes_on(MODEL.abstract(on)) == held
    assert WEIGHTS < held < 1.2 * WEIGHTS, "4 bytes a weight on a quarter of the devices; norms are on all"


def test_what_the_layers_keep():
    packed = tiny.packed(0, 4, 24, (0,))
    states = packed.tokens_ST.size * MODEL.config.hidden_size * 2
    device, host = {}, {}
    for remat in ("none", "dots", "attention", "offload", "full"):
        device[remat], host[remat] = kept_bytes(Model(MODEL.config, remat), packed, jnp.bfloat16)
    assert device["none"] > device["dots"] > device["attention"] > device["full"] >= MODEL.config.layers * states
    assert device["offload"] == device["full"]
    assert host.pop("offload") == device["attention"] - device["full"]
    assert not any(host.values())


def test_the_table_says_what_was_saved():
    text = table([Line("parameters", "float32", 4_000_000_000), Line("moments", "factored", 2_010_000_000, 8_000_000_000, 10**9)])
    _, parameters, moments = text.splitlines()
    assert parameters.split() == ["parameters", "4", "float32"]
    assert moments.split() == ["moments", "2.01", "5.99", "1", "factored"]
