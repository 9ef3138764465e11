"""A tiny decoder and a random parallel batch for tests: big enough for 8 shards of every axis, small enough to compile fast."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mpo_jax.models.decoder import DecoderConfig, Model
from mpo_jax.sharding import MeshConfig, make_mesh
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


def packed(seed: int, rows: int, length: int, *, filling: int = 0) -> Packed:
    """Padded pairs of random sequences with mean pooling; `filling` empty packed rows at the end."""
    random = np.random.default_rng(seed)
    S = 2 * rows + filling
    out = {name: np.zeros((S, length), np.int32) for name in ("tokens_ST", "position_ST", "segment_ST", "kv_segment_ST")}
    out["position_ST"][:] = np.arange(length)
    at_SA, label_SA, slot_SA = (np.zeros((S, length), np.int32) for _ in range(3))
    slot_SA[:] = -1
    pool_slot_ST, pool_weight_ST = np.full((S, length), -1, np.int32), np.zeros((S, length), np.float32)
    for s in range(2 * rows):
        prompt, answer = random.integers(2, 6), random.integers(1, length - 6)
        total = prompt + answer
        tokens = random.integers(1, VOCAB, total)
        out["tokens_ST"][s, :total] = tokens
        out["segment_ST"][s, :total] = out["kv_segment_ST"][s, :total] = 1
        at_SA[s, :answer] = np.arange(prompt - 1, total - 1)
        label_SA[s, :answer] = tokens[prompt:]
        slot_SA[s, :answer] = s
        pool_slot_ST[s, :total], pool_weight_ST[s, :total] = s, 1 / total
    return Packed(
        **out,
        answer_at_SA=at_SA,
        answer_label_SA=label_SA,
        answer_slot_SA=slot_SA,
        pool_slot_ST=pool_slot_ST,
        pool_weight_ST=pool_weight_ST,
    )


def batch(rows: int = 4, *, length: int = 24, source_length: int | None = None, weight=None, views: bool = False) -> Batch:
    """Without a microbatch axis; with the views that some methods read."""
    return Batch(
        source=packed(0, rows, source_length or length),
        target=packed(1, rows, length),
        weight_B=np.ones(rows, np.float32) if weight is None else np.asarray(weight, np.float32),
        language_B=(np.arange(rows) % 2).astype(np.int32),
        mismatch=packed(2, rows, length) if views else None,
        parallel=packed(3, rows, length) if views else None,
    )


def micro(of: Batch, parts: int) -> Batch:
    """The same rows in `parts` microbatches: sequences and rows are cut in order, slots counted anew."""

    def cut(x):
        return np.asarray(x).reshape(parts, -1, *x.shape[1:])

    def side(p: Packed) -> Packed:
        cut_p = jax.tree.map(cut, p)
        slots = 2 * of.weight_B.shape[0] // parts
        renumber = lambda slot: np.where(slot >= 0, slot % slots, -1)  # noqa: E731
        return dataclasses.replace(
            cut_p, answer_slot_SA=renumber(cut_p.answer_slot_SA), pool_slot_ST=renumber(cut_p.pool_slot_ST)
        )

    sides = {name: side(part) for name in ("source", "target", "mismatch", "parallel") if (part := getattr(of, name))}
    return Batch(**{"source": None, "target": None} | sides, weight_B=cut(of.weight_B), language_B=cut(of.language_B))


def mesh(data: int = 1, fsdp: int = 1, tensor: int = 1):
    return make_mesh(MeshConfig(data, fsdp, tensor), jax.devices()[: data * fsdp * tensor])


def place(of: Model, params: Params, on) -> Params:
    return jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), params, of.abstract(on))
