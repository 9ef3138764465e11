"""What does the last token of each row see in a cache of keys and values? One pass over the cache, in plain XLA.

The pass is all the work: there is one query a head, so that every score of a row fits in memory, and reading the cache takes the
time.
"""

import jax
import jax.numpy as jnp

from mpo_jax.types import Array, Places

_HIDDEN = -1e30


def attend(
    q_S1NH: Array,
    k_SKUH: Array,
    v_SKUH: Array,
    queries: Places,
    keys: Places,
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Array:
    """`api.attention` of one query a row that sees at least one key: [S, 1, N, H] in the dtype of v.

    The cache has the heads before its slots, so that on every device a head's keys lie together."""
    S, _, N, H = q_S1NH.shape
    K = k_SKUH.shape[1]
    with jax.named_scope("attention"):
        q_SKGH = q_S1NH.reshape(S, K, N // K, H)
        score_SKGU = jnp.einsum("SKGH,SKUH->SKGU", q_SKGH, k_SKUH, preferred_element_type=jnp.float32) * scale
        if softcap is not None:
            score_SKGU = softcap * jnp.tanh(score_SKGU / softcap)
        back_SU = queries.position - keys.position
        sees_SU = (back_SU >= 0) & (queries.segment == keys.segment)
        if window is not None:
            sees_SU &= back_SU < window
        weight_SKGU = jax.nn.softmax(jnp.where(sees_SU[:, None, None], score_SKGU, _HIDDEN), axis=-1)
        seen_SKGH = jnp.einsum("SKGU,SKUH->SKGH", weight_SKGU.astype(v_SKUH.dtype), v_SKUH, preferred_element_type=jnp.float32)
        return seen_SKGH.reshape(S, 1, N, H).astype(v_SKUH.dtype)
