"""Which token comes next? The most probable one, or one drawn from the distribution, cut by `top_k` and `top_p`.

A key belongs to one token of one answer, so that what is drawn depends on nothing that is computed beside it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mpo_jax.generation.base import Decoding
from mpo_jax.types import Array


class Draw(NamedTuple):
    """The numbers of a `Decoding` as arguments of a program, f32 () and int32 (); None where nothing is to be computed."""

    temperature: Array | None
    top_k: Array | None
    top_p: Array | None

    @classmethod
    def of(cls, decoding: Decoding) -> "Draw":
        if decoding.temperature == 0:
            return cls(None, None, None)
        return cls(
            jnp.float32(decoding.temperature),
            jnp.int32(decoding.top_k) if decoding.top_k else None,
            jnp.float32(decoding.top_p) if decoding.top_p < 1 else None,
        )


def choose(logits_BV: Array, key_B2: Array, number: Array, draw: Draw) -> Array:
    """Token ids, int32 [B]. `logits_BV` f32; `key_B2` uint32, one key an answer; `number` int32 (): how many tokens each answer
    has so far."""
    if draw.temperature is None:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = kept(logits_BV / draw.temperature, draw)
    V = logits_BV.shape[1]

    def noise(key_2: Array) -> Array:
        return jax.random.gumbel(jax.random.fold_in(jax.random.wrap_key_data(key_2), number), (V,), jnp.float32)

    return jnp.argmax(logits_BV + jax.vmap(noise)(key_B2), axis=-1).astype(jnp.int32)


def kept(logits_BV: Array, draw: Draw) -> Array:
    """The logits, -inf where `top_k` or `top_p` leaves a token out. Tokens as probable as the last one that is kept are kept."""
    if draw.top_k is not None:
        logits_BV = _fewest(logits_BV, lambda in_BV: jnp.sum(in_BV, axis=-1), draw.top_k)
    if draw.top_p is not None:
        p_BV = jax.nn.softmax(logits_BV, axis=-1)
        logits_BV = _fewest(logits_BV, lambda in_BV: jnp.sum(jnp.where(in_BV, p_BV, 0), axis=-1), draw.top_p)
    return logits_BV


def _fewest(logits_BV: Array, measure: Callable[[Array], Array], enough: Array) -> Array:
    """-inf below the highest threshold of each row at which the `measure` of the tokens that reach it is `enough`.

    The threshold is found bit by bit, in 32 passes: no vocabulary is sorted, and one that is split over devices stays so.
    """
    bits_BV = jax.lax.bitcast_convert_type(logits_BV, jnp.int32)
    order_BV = jnp.where(bits_BV < 0, bits_BV ^ 0x7FFFFFFF, bits_BV)  # as integers in the order of the floats
    low_B = jnp.full(len(logits_BV), jnp.iinfo(jnp.int32).min, jnp.int32)
    high_B = jnp.full(len(logits_BV), jnp.iinfo(jnp.int32).max, jnp.int32)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low_B, high_B = bounds
        middle_B = (low_B & high_B) + ((low_B ^ high_B) >> 1)
        ok_B = measure(order_BV >= middle_B[:, None]) >= enough
        return jnp.where(ok_B, middle_B, low_B), jnp.where(ok_B, high_B, middle_B)

    low_B, _ = jax.lax.fori_loop(0, 32, halve, (low_B, high_B))
    return jnp.where(order_BV >= low_B[:, None], logits_BV, -jnp.inf)
