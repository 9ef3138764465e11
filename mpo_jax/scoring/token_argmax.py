"""Which token is the most probable at each scored position? Block by block, as in `token_logprob`: no array of logits exists."""

from typing import Any

import jax
import jax.numpy as jnp

from mpo_jax.scoring.token_logprob import HIDDEN, SCORED, UNEMBED, Collectives, block_of, blocks_of, on_mesh, operand
from mpo_jax.types import Array


def token_argmaxes(h_SAD: Array, unembed_VD: Array, softcap: float | None) -> Array:
    """Ids, int32 (S, A); of equally probable tokens the one with the lowest id, as `argmax` over all logits gives it. Without
    gradient."""
    return on_mesh(_argmaxes, (HIDDEN, UNEMBED), (SCORED,), softcap)(h_SAD, unembed_VD)[0]


def _argmaxes(h_SAD: Array, unembed_VD: Array, *, softcap: float | None, across: Collectives) -> tuple[Array]:
    S, A, D = h_SAD.shape
    h_PD, V = operand(h_SAD, across).reshape(S * A, D), unembed_VD.shape[0]
    size, blocks = blocks_of(S * A, V)

    def body(carry: Any, i: Array) -> tuple[Any, None]:
        top_P, best_P = carry
        start, _, logits_bP, _, _, _ = block_of(i, size, unembed_VD, h_PD, softcap, across)
        highest_P = logits_bP.max(axis=0)
        # What the last block shares with the one before cannot be higher than what was found there.
        better_P = highest_P > top_P
        best_P = jnp.where(better_P, start + jnp.argmax(logits_bP, axis=0).astype(jnp.int32), best_P)
        return (jnp.where(better_P, highest_P, top_P), best_P), None

    none = (jnp.full(S * A, -jnp.inf, jnp.float32), jnp.zeros(S * A, jnp.int32))
    (top_P, best_P), _ = jax.lax.scan(body, none, jnp.arange(blocks))
    # Each part of a split vocabulary offers its best token; those that are not the best of all offer an id beyond any.
    offered_P = jnp.where(top_P == across.max_vocab(top_P), best_P + across.vocab_start(V), jnp.iinfo(jnp.int32).max)
    return (-across.max_vocab(-offered_P).reshape(S, A),)
