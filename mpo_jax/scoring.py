"""What does a model say of the answers of a batch? Hidden states -> token log-probs -> per-row scores.

No array of [tokens, vocabulary] exists for the batch: only scored positions reach the unembedding, and `logprob` takes the
vocabulary a block at a time.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mpo_jax.divergence import token_divergences
from mpo_jax.errors import InputError
from mpo_jax.logprob import token_logps
from mpo_jax.types import KL, Array, Batch, Packed, Pair, Params, Reads, Scores, SequenceScores, Want


def score(model: Any, params: Params, batch: Batch, reads: Reads, ref_params: Params | None = None) -> Scores:
    """Scores of B rows, as `reads` asks for them; the dtype of `params` is the compute dtype, scores are float32. Divergences
    are those from `ref_params`, and are left out without them."""
    wanted = {side: want for side in ("source", "target") if (want := getattr(reads, side))}
    packed = {side: getattr(batch, side) for side in wanted}
    for side in wanted:
        if packed[side] is None:
            raise InputError(f"The loss reads the {side} side, and the data has none: give rows that have it, or another loss.")
    hidden_STD = _hidden_states(model, params, packed)
    slots = 2 * batch.weight_B.shape[0]
    pairs = {}
    for side, want in wanted.items():
        logp, count, kl = None, None, None
        if Want.LOGP in want:
            with jax.named_scope(f"logp_{side}"):
                logp_SA = answer_logps(hidden_STD[side], model.unembedding(params), packed[side], model.config.final_softcap)
                logp = per_slot(logp_SA, packed[side], slots)
        if want & KL and ref_params is not None:
            with jax.named_scope(f"kl_{side}"):
                kl_SA = _divergences(model, params, hidden_STD[side], ref_params, packed[side], want)
                kl = per_slot(kl_SA, packed[side], slots)
        if want & (Want.LOGP | KL):
            count = per_slot(jnp.ones(packed[side].answer_slot_SA.shape), packed[side], slots)
        pooled = None
        if Want.HIDDEN in want:
            with jax.named_scope(f"pool_{side}"):
                pooled = pool(hidden_STD[side], packed[side], slots)
        chosen, rejected = (
            SequenceScores(*(None if x is None else x[which::2] for x in (logp, count, pooled, kl))) for which in (0, 1)
        )
        pairs[side] = Pair(chosen, rejected)
    return Scores(**pairs)


def _divergences(model: Any, params: Params, hidden_STD: Array, ref_params: Params, packed: Packed, want: Want) -> Array:
    """At every scored position, f32 nats (S, A); the reference has no gradient."""
    ref_params = jax.lax.stop_gradient(ref_params)
    states = (hidden_STD, model.hidden(ref_params, packed))
    h_SAD, ref_h_SAD = (jnp.take_along_axis(x_STD, packed.answer_at_SA[..., None], axis=1) for x_STD in states)
    unembed_VD, ref_unembed_VD = (model.unembedding(p) for p in (params, ref_params))
    of_policy = Want.KL_OF_POLICY in want
    return token_divergences(h_SAD, unembed_VD, ref_h_SAD, ref_unembed_VD, model.config.final_softcap, of_policy)


def score_view(model: Any, params: Params, batch: Batch, view: Packed | None) -> Pair:
    """Log-probabilities of the pairs of a view of the rows, `Batch.mismatch` or `Batch.parallel`."""
    assert view is not None, "the data brings the views that a method reads"
    pair = score(model, params, dataclasses.replace(batch, target=view), Reads(target=Want.LOGP)).target
    assert pair is not None
    return pair


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
    h_SAD = jnp.take_along_axis(hidden_STD, packed.answer_at_SA[..., None], axis=1)
    return token_logps(h_SAD, unembed_VD, packed.answer_label_SA, softcap)


def per_slot(x_SA: Array, packed: Packed, slots: int) -> Array:
    """Sums over each sequence's scored positions, f32 (slots,). A masked sum stays exact float32 on every backend."""
    mine_SAB = packed.answer_slot_SA[..., None] == jnp.arange(slots)[None, None, :]
    return jnp.sum(jnp.where(mine_SAB, x_SA[..., None], 0.0), axis=(0, 1))


def pool(hidden_STD: Array, packed: Packed, slots: int) -> Array:
    """Weighted mean of each sequence's states in float32 arithmetic, (slots, D)."""
    mine_STB = packed.pool_slot_ST[..., None] == jnp.arange(slots)[None, None, :]
    weight_STB = jnp.where(mine_STB, packed.pool_weight_ST[..., None], 0.0)
    return jnp.einsum("std,stb->bd", hidden_STD.astype(jnp.float32), weight_STB, precision=jax.lax.Precision.HIGHEST)
