"""A tiny decoder and a random parallel batch for tests: big enough for 8 shards of every axis, small enough to compile fast."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AxisType

from mpo_jax.devices.sharding import MESH_AXES, MeshConfig, make_mesh
from mpo_jax.models.decoder import DecoderConfig, Model
from mpo_jax.types import Batch, Packed, Params

VOCAB = 96
LANGUAGES = ("sw", "zh")
CONFIG = DecoderConfig(
    vocab_size=VOCAB,
    hidden_size=32,
    layers=2,
    heads=8,
    kv_heads=8,
    head_dim=8,
    ffn=64,
    norm_eps=1e-5,
    rope_theta=10_000.0,
    query_scale=8**-0.5,
    layer_windows=(None, None),
    tied=False,
)

GPUS = jax.sharding.AbstractMesh(
    (2, 2, 2), MESH_AXES, axis_types=(AxisType.Auto,) * 3, abstract_device=AbstractDevice("a GPU", None, "gpu")
)


def model(**changes) -> Model:
    return Model(dataclasses.replace(CONFIG, **changes))


def two_params(of: Model, dtype=jnp.float32) -> tuple[Params, Params]:
    """A policy near its reference. Weights are large enough for probabilities to differ from uniform; made by numpy, which
    has nothing to compile."""
    random = np.random.default_rng(0)

    def reference(path, x):
        return np.ones(x.shape) if "norm" in path[-1].key else 0.1 * random.normal(size=x.shape)

    first = jax.tree_util.tree_map_with_path(reference, of.abstract())
    second = jax.tree.map(lambda x: x + 0.01 * random.normal(size=x.shape), first)
    return tuple(jax.tree.map(lambda x: jnp.asarray(x, dtype), tree) for tree in (second, first))


def packed(seed: int, rows: int, length: int, sides: tuple[int, ...] = (0, 1, 3), *, filling: int = 0) -> Packed:
    """Padded pairs of random sequences of these sides, each scored and pooled, one a packed row in the order of their slots;
    `filling` empty packed rows at the end."""
    slots = [slot for side in sides for slot in range(2 * rows * side, 2 * rows * (side + 1))]
    S = len(slots) + filling
    out = {name: np.zeros((S, length), np.int32) for name in ("tokens_ST", "position_ST", "segment_ST", "kv_segment_ST")}
    out["position_ST"][:] = np.arange(length)
    at_SA, label_SA, slot_SA = (np.zeros((S, length), np.int32) for _ in range(3))
    slot_SA[:] = -1
    pool_slot_ST, pool_weight_ST = np.full((S, length), -1, np.int32), np.zeros((S, length), np.float32)
    for s, slot in enumerate(slots):
        random = np.random.default_rng((seed, slot))
        prompt, answer = random.integers(2, 6), random.integers(1, length - 6)
        total = prompt + answer
        tokens = random.integers(1, VOCAB, total)
        out["tokens_ST"][s, :total] = tokens
        out["segment_ST"][s, :total] = out["kv_segment_ST"][s, :total] = 1
        at_SA[s, :answer] = np.arange(prompt - 1, total - 1)
        label_SA[s, :answer] = tokens[prompt:]
        slot_SA[s, :answer] = slot
        pool_slot_ST[s, :total], pool_weight_ST[s, :total] = slot, 1 / total
    return Packed(
        **out,
        answer_at_SA=at_SA,
        answer_label_SA=label_SA,
        answer_slot_SA=slot_SA,
        pool_slot_ST=pool_slot_ST,
        pool_weight_ST=pool_weight_ST,
    )


def batch(rows: int = 4, *, length: int = 24, weight=None, seed: int = 0, divergence: bool = False) -> Batch:
    """Without a microbatch axis. Both models read all there is; what takes forwards of its own where it is asked for."""
    both = packed(seed, rows, length)
    return Batch(
        policy=both,
        reference=both,
        mismatch=packed(seed, rows, length, (2,)),
        divergence=packed(seed, rows, length, (0,)) if divergence else None,
        weight_B=np.ones(rows, np.float32) if weight is None else np.asarray(weight, np.float32),
        language_B=(np.arange(rows) % 2).astype(np.int32),
    )


def micro(of: Batch, parts: int) -> Batch:
    """The same rows in `parts` microbatches: rows are cut in order, slots counted anew."""
    B = of.weight_B.shape[0]

    def cut(x, lead):
        x = np.asarray(x)
        return np.moveaxis(x.reshape(lead, parts, B // parts, *x.shape[1:]), 1, 0).reshape(parts, -1, *x.shape[1:])

    def renumber(slot):
        return np.where(slot >= 0, slot // B * (B // parts) + slot % (B // parts), -1)

    def side(p: Packed) -> Packed:
        kinds = p.tokens_ST.shape[0] // B  # sides x answers, outermost in the numbering of slots
        p = jax.tree.map(lambda x: cut(x, kinds), p)
        return dataclasses.replace(p, answer_slot_SA=renumber(p.answer_slot_SA), pool_slot_ST=renumber(p.pool_slot_ST))

    return Batch(
        side(of.policy),
        side(of.reference),
        cut(of.weight_B, 1),
        cut(of.language_B, 1),
        side(of.mismatch),
        of.divergence and side(of.divergence),
    )


def mesh(data: int = 1, fsdp: int = 1, tensor: int = 1):
    """Skips where there are fewer devices, as on a machine with one GPU."""
    count = data * fsdp * tensor
    if len(jax.devices()) < count:
        pytest.skip(f"needs {count} devices")
    return make_mesh(MeshConfig(data, fsdp, tensor), jax.devices()[:count])


def place(of: Model, params: Params, on) -> Params:
    return jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), params, of.abstract(on))


def inner_jaxprs(jaxpr):
    """A program and all programs within it."""
    yield jaxpr
    for eqn in jaxpr.eqns:
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from inner_jaxprs(inner)


def assert_metrics(got, expected, *, rtol: float = 1e-5) -> None:
    """Rewards and gaps are differences of log-probabilities, which cancel: their rounding is on the scale of those."""
    assert got.keys() == expected.keys()
    scale = max(abs(float(expected[name])) for name in ("logps/chosen", "logps/rejected"))
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=rtol, atol=1e-6 * scale, err_msg=name)
