"""What does a model say of the answers of a batch? Hidden states -> token log-probs -> per-row scores.

No array of [tokens, vocabulary] exists for the batch: only scored positions reach the unembedding, a block at a time, and the
backward pass computes each block again.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mpo_jax import sharding
from mpo_jax.types import Array, Batch, Packed, Pair, Params, Reads, Scores, SequenceScores, Want

LOGIT_BLOCK = 2**26  # entries of one block of logits on one device: 256 MB in f32


def score(model: Any, params: Params, batch: Batch, reads: Reads) -> Scores:
    """Scores of B rows, as `reads` asks for them; the dtype of `params` is the compute dtype, scores are float32."""
    wanted = {side: want for side in ("source", "target") if (want := getattr(reads, side))}
    packed = {side: getattr(batch, side) for side in wanted}
    hidden_STD = _hidden_states(model, params, packed)
    slots = 2 * batch.weight_B.shape[0]
    pairs = {}
    for side, want in wanted.items():
        logp, count = None, None
        if Want.LOGP in want:
            with jax.named_scope(f"logp_{side}"):
                logp_SA = answer_logps(hidden_STD[side], model.unembedding(params), packed[side], model.config.final_softcap)
                logp, count = per_slot(logp_SA, packed[side], slots), per_slot(jnp.ones_like(logp_SA), packed[side], slots)
        pooled = None
        if Want.HIDDEN in want:
            with jax.named_scope(f"pool_{side}"):
                pooled = pool(hidden_STD[side], packed[side], slots)
        chosen, rejected = (
            SequenceScores(*(None if x is None else x[which::2] for x in (logp, count, pooled))) for which in (0, 1)
        )
        pairs[side] = Pair(chosen, rejected)
    return Scores(**pairs)


def _hidden_states(model: Any, params: Params, packed: dict[str, Packed]) -> dict[str, Array]:
    """Final-norm states of each side, (S, T, D). Sides of equal T go through the model together: one forward has one
    gradient tree in the backward pass where two have two."""
    sides = list(packed.values())
    if len(sides) == 2 and sides[0].tokens_ST.shape[1] == sides[1].tokens_ST.shape[1]:
        trunk = ("tokens_ST", "position_ST", "segment_ST", "kv_segment_ST")
        joined = {name: jnp.concatenate([getattr(side, name) for side in sides]) for name in trunk}
        both_STD = model.hidden(params, dataclasses.replace(sides[0], **joined))
        S = sides[0].tokens_ST.shape[0]
        return dict(zip(packed, (both_STD[:S], both_STD[S:]), strict=True))
    return {side: model.hidden(params, p) for side, p in packed.items()}


def answer_logps(hidden_STD: Array, unembed_VD: Array, packed: Packed, softcap: float | None) -> Array:
    """Log-probability of every scored token, f32 nats (S, A); unused entries hold a number that no slot takes."""
    S, A = packed.answer_at_SA.shape
    h_SAD = jnp.take_along_axis(hidden_STD, packed.answer_at_SA[..., None], axis=1)
    C = _block_length(S, A, unembed_VD.shape[0])
    blocks = -(-A // C)

    def blocked(x: Array) -> Array:  # (S, A, ...) -> (blocks, S, C, ...)
        x = jnp.pad(x, ((0, 0), (0, blocks * C - A), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(S, blocks, C, *x.shape[2:]), 1, 0)

    # Cast once here and back in each block, so that the blocks' gradients of the unembedding add up in float32.
    unembed_f32_VD = unembed_VD.astype(jnp.float32)

    @jax.checkpoint
    def block(h_SCD: Array, label_SC: Array) -> Array:
        logits_SCV = jnp.einsum("scd,vd->scv", h_SCD, unembed_f32_VD.astype(h_SCD.dtype), preferred_element_type=jnp.float32)
        logits_SCV = sharding.constrain(logits_SCV, "batch", None, "vocab")
        if softcap is not None:
            logits_SCV = softcap * jnp.tanh(logits_SCV / softcap)
        # A masked sum picks the label's logit where a gather would collect the vocabulary's shards.
        is_label_SCV = jnp.arange(logits_SCV.shape[-1])[None, None, :] == label_SC[..., None]
        label_logit_SC = jnp.sum(jnp.where(is_label_SCV, logits_SCV, 0.0), axis=-1)
        return label_logit_SC - jax.nn.logsumexp(logits_SCV, axis=-1)

    logp_KSC = jax.lax.map(lambda x: block(*x), (blocked(h_SAD), blocked(packed.answer_label_SA)))
    return jnp.moveaxis(logp_KSC, 0, 1).reshape(S, blocks * C)[:, :A]


def _block_length(S: int, A: int, V: int) -> int:
    """How many scored positions of each of S sequences go through the unembedding at a time."""
    mesh = jax.sharding.get_abstract_mesh()
    rows, vocab = (S, V) if mesh.empty else (S // sharding.shards(mesh, "batch"), V // sharding.shards(mesh, "vocab"))
    blocks = -(-A // max(1, LOGIT_BLOCK // (rows * vocab)))
    return -(-A // blocks)  # even blocks: the last is not mostly padding


def per_slot(x_SA: Array, packed: Packed, slots: int) -> Array:
    """Sums over each sequence's scored positions, f32 (slots,). A masked sum stays exact float32 on every backend."""
    mine_SAB = packed.answer_slot_SA[..., None] == jnp.arange(slots)[None, None, :]
    return jnp.sum(jnp.where(mine_SAB, x_SA[..., None], 0.0), axis=(0, 1))


def pool(hidden_STD: Array, packed: Packed, slots: int) -> Array:
    """Weighted mean of each sequence's states in float32 arithmetic, (slots, D)."""
    mine_STB = packed.pool_slot_ST[..., None] == jnp.arange(slots)[None, None, :]
    weight_STB = jnp.where(mine_STB, packed.pool_weight_ST[..., None], 0.0)
    return jnp.einsum("std,stb->bd", hidden_STD.astype(jnp.float32), weight_STB, precision=jax.lax.Precision.HIGHEST)
