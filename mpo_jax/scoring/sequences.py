"""How does a model score the answers of a batch? Hidden states -> token log-probabilities -> scores per row.

No array of [tokens, vocabulary] exists for the batch: only scored positions reach the unembedding, and `token_logprob` processes
the vocabulary block by block.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mpo_jax.devices.sharding import everywhere
from mpo_jax.errors import InputError
from mpo_jax.scoring.language_model import LanguageModel
from mpo_jax.scoring.token_divergence import token_divergences
from mpo_jax.scoring.token_logprob import token_logps
from mpo_jax.types import (
    ANSWERS,
    KL,
    PAIR_KINDS,
    SIDES,
    Array,
    Batch,
    Packed,
    Pair,
    Params,
    Reads,
    Scores,
    SequenceScores,
    Want,
    cast,
    prompt_slot,
)

ScoreStep = Callable[[Params, Batch], Scores]


def score(model: LanguageModel, params: Params, packed: Packed, reads: Reads, rows: int) -> Scores:
    """The scores of B = `rows` rows that `reads` asks for, from sequences packed for `reads`. The dtype of `params` is the
    compute dtype; scores are float32. The state of a dominant prompt is at the first row that has it (`Batch.prompt_B`).
    Errors: more layers asked for than the model has."""
    slots = len(PAIR_KINDS) * len(ANSWERS) * rows
    readers = {"residual": lambda x_STD: prompt_states(x_STD, packed, rows)} if reads.prompts and reads.layer else {}
    hidden_STD, of_layers = model.tapped(params, packed, readers)
    logp, count, pooled = None, None, None
    if Want.LOGP in reads.anything:
        with jax.named_scope("logp"):
            read_STD, unembed_VD = model.readout(hidden_STD), model.unembedding(params)
            logp_SA = answer_logps(read_STD, unembed_VD, packed, model.final_softcap, model.keeps_logits)
            logp, count = per_slot(logp_SA, packed, slots), per_slot(jnp.ones_like(logp_SA), packed, slots)
    if Want.HIDDEN in reads.anything:
        with jax.named_scope("pool"):
            pooled = pool(hidden_STD, packed, slots)

    def sequence(kind: int, answer: int) -> SequenceScores:
        want, start = reads.want(PAIR_KINDS[kind]), (len(ANSWERS) * kind + answer) * rows
        given = ((logp, Want.LOGP), (count, Want.LOGP), (pooled, Want.HIDDEN))
        return SequenceScores(*(x[start : start + rows] if x is not None and asked in want else None for x, asked in given))

    read = [(kind, name) for kind, name in enumerate(PAIR_KINDS) if reads.want_of_answers(name)]
    pairs: dict[str, Any] = {name: Pair(sequence(kind, 0), sequence(kind, 1)) for kind, name in read}
    if not reads.prompts:
        return Scores(**pairs)
    with jax.named_scope("prompts"):
        states = _of_layer(of_layers["residual"], reads.layer) if reads.layer else prompt_states(hidden_STD, packed, rows)
    return Scores(**pairs, prompts={side: states[SIDES.index(side)] for side in reads.prompts})


def narrowed(scores: Scores, reads: Reads) -> Scores:
    """What one forward pass of one model gives for `reads`, of scores that have more."""

    def answer(of: SequenceScores, want: Want) -> SequenceScores:
        logp, hidden = Want.LOGP in want, Want.HIDDEN in want
        return SequenceScores(of.logp_B if logp else None, of.count_B if logp else None, of.hidden_BD if hidden else None)

    wants = {kind: reads.of_rows.want_of_answers(kind) for kind in PAIR_KINDS}
    read = {kind: (getattr(scores, kind), want) for kind, want in wants.items() if want}
    pairs: dict[str, Any] = {kind: Pair(answer(of.chosen, want), answer(of.rejected, want)) for kind, (of, want) in read.items()}
    return Scores(**pairs, prompts={side: scores.prompts[side] for side in reads.prompts})


def prompt_states(x_STD: Array, packed: Packed, rows: int) -> Array:
    """The states of the last tokens of B = `rows` prompts of each of `SIDES`, f32 (2, B, D); zeros for a prompt that is not
    packed."""
    numbered = dataclasses.replace(packed, pool_slot_ST=packed.pool_slot_ST - prompt_slot(SIDES[0], rows))
    return pool(x_STD, numbered, len(SIDES) * rows).reshape(len(SIDES), rows, -1)


def _of_layer(states: Array, layer: int) -> Array:
    """Of the states after each layer, those after the first `layer` of them."""
    if layer > len(states):
        raise InputError(f"loss.layer={layer} is more than the model's {len(states)} layers: choose one of these.")
    return states[layer - 1]


def score_all(model: LanguageModel, params: Params, packed: Packed, reads: Reads, rows: int) -> Scores:
    """`score` of M microbatches of B = `rows` rows each, one after the other: (M * B,) and (M * B, D), in the order of the
    rows."""
    return flat(jax.lax.map(lambda micro: score(model, params, micro, reads, rows), packed))


def flat(scores: Any) -> Any:
    """Scores of microbatches as those of all rows, in order: (M, B, ...) -> (M * B, ...)."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), scores)


def make_score_step(model: LanguageModel, compute_dtype: Any, reads: Reads) -> jax.stages.Wrapped:
    """A `ScoreStep`: (params, batch with its microbatch axis, packed for `reads`) -> the scores of its rows, in order."""

    def score_step(params: Params, batch: Batch) -> Scores:
        scores = score_all(model, cast(params, compute_dtype), batch.policy, reads, batch.weight_B.shape[1])
        return jax.tree.map(everywhere, scores)  # so that every process sees them

    return jax.jit(score_step)


def divergences(
    model: LanguageModel, params: Params, ref_params: Params, packed: Packed, reads: Reads, rows: int
) -> dict[str, tuple[SequenceScores, SequenceScores]]:
    """Side -> (chosen, rejected): the divergence of the two models' next-token distributions over the answers of B = `rows` rows,
    and the answers' numbers of tokens. `packed` was packed for `reads.divergence`; the reference has no gradient."""
    ref_params = jax.lax.stop_gradient(ref_params)
    states = (model.readout(model.hidden(p, packed)) for p in (params, ref_params))
    h_SAD, ref_h_SAD = (jnp.take_along_axis(x_STD, packed.answer_at_SA[..., None], axis=1) for x_STD in states)
    unembed_VD, ref_unembed_VD = (model.unembedding(p) for p in (params, ref_params))
    of_policy = Want.KL_OF_POLICY in reads.anything
    kl_SA: Array = token_divergences(h_SAD, unembed_VD, ref_h_SAD, ref_unembed_VD, model.final_softcap, of_policy)
    slots = len(PAIR_KINDS) * len(ANSWERS) * rows
    kl, count = per_slot(kl_SA, packed, slots), per_slot(jnp.ones_like(kl_SA), packed, slots)

    def sequence(start: int) -> SequenceScores:
        return SequenceScores(kl_B=kl[start : start + rows], count_B=count[start : start + rows])

    starts = {name: len(ANSWERS) * kind * rows for kind, name in enumerate(PAIR_KINDS) if reads.want(name) & KL}
    return {name: (sequence(start), sequence(start + rows)) for name, start in starts.items()}


def answer_logps(hidden_STD: Array, unembed_VD: Array, packed: Packed, softcap: float | None, keep: bool = False) -> Array:
    """The log-probability of every scored token, f32 nats (S, A); unused entries hold a number that no slot uses. `keep`: see
    `token_logps`."""
    h_SAD = jnp.take_along_axis(hidden_STD, packed.answer_at_SA[..., None], axis=1)
    return token_logps(h_SAD, unembed_VD, packed.answer_label_SA, softcap, keep)


def per_slot(x_SA: Array, packed: Packed, slots: int) -> Array:
    """Sums over each sequence's scored positions, f32 (slots,). A masked sum is float32 on every backend, a matrix product
    not."""
    mine_SAB = packed.answer_slot_SA[..., None] == jnp.arange(slots)[None, None, :]
    return jnp.sum(jnp.where(mine_SAB, x_SA[..., None], 0.0), axis=(0, 1))


def pool(hidden_STD: Array, packed: Packed, slots: int) -> Array:
    """Weighted mean of each sequence's states in float32 arithmetic, (slots, D)."""
    mine_STB = packed.pool_slot_ST[..., None] == jnp.arange(slots)[None, None, :]
    weight_STB = jnp.where(mine_STB, packed.pool_weight_ST[..., None], 0.0)
    return jnp.einsum("std,stb->bd", hidden_STD.astype(jnp.float32), weight_STB, precision=jax.lax.Precision.HIGHEST)
