"""Who sees whom, and what do they see? Grouped-query attention within the segments of packed rows.

Memory is bounded: queries go block by block, each block's scores are recomputed in the backward pass, and no array over
queries x keys of the whole row exists beyond one block.
"""

import jax
import jax.numpy as jnp

from mpo_jax.types import Array

QUERY_BLOCK = 512
_HIDDEN = -1e30  # finite: a query that sees no key must give 0, not NaN


def attention(
    q_STNH: Array,
    k_STKH: Array,
    v_STKH: Array,
    position_ST: Array,
    segment_ST: Array,
    kv_segment_ST: Array,
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
    block: int = QUERY_BLOCK,
) -> Array:
    """What each query sees, [S, T, N, H] in the dtype of v; scores and softmax in float32.

    A query sees a key that is not after it in its row, has the query's segment as its kv_segment, and lies fewer than `window`
    positions back (None = any number; Hugging Face's convention, where a window of 1 is the query itself). Scores are
    multiplied by `scale`, then capped to softcap * tanh(score / softcap). A query that sees no key gives 0.
    Query head n reads key/value head n // (N / K).
    """
    S, T, N, H = q_STNH.shape
    K = k_STKH.shape[2]
    blocks = -(-T // block)
    length = -(-T // blocks)  # of one block: evenly cut, so that padding the last one costs at most `blocks - 1` queries
    index_T = jnp.arange(T)

    def cut(x: Array) -> Array:
        """[S, T, ...] -> [blocks, S, length, ...]"""
        x = jnp.pad(x, [(0, 0), (0, blocks * length - T)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(S, blocks, length, *x.shape[2:]), 1, 0)

    def one_block(queries: tuple[Array, Array, Array, Array]) -> Array:
        q_StKGH, q_index_t, q_position_St, q_segment_St = queries
        score_SKGtT = jnp.einsum("StKGH,SuKH->SKGtu", q_StKGH, k_STKH, preferred_element_type=jnp.float32) * scale
        if softcap is not None:
            score_SKGtT = softcap * jnp.tanh(score_SKGtT / softcap)
        sees_StT = (index_T[None, :] <= q_index_t[:, None])[None] & (q_segment_St[:, :, None] == kv_segment_ST[:, None, :])
        if window is not None:
            sees_StT &= q_position_St[:, :, None] - position_ST[:, None, :] < window
        sees_SKGtT = sees_StT[:, None, None]
        weight_SKGtT = jax.nn.softmax(jnp.where(sees_SKGtT, score_SKGtT, _HIDDEN), axis=-1)
        weight_SKGtT = jnp.where(sees_SKGtT, weight_SKGtT, 0.0).astype(v_STKH.dtype)
        return jnp.einsum("SKGtu,SuKH->StKGH", weight_SKGtT, v_STKH)

    with jax.named_scope("attention"):
        q_index_bt = jnp.arange(blocks * length).reshape(blocks, length)
        queries = (cut(q_STNH.reshape(S, T, K, N // K, H)), q_index_bt, cut(position_ST), cut(segment_ST))
        # In a loop forward and backward are separate programs: common-subexpression elimination cannot undo the checkpoint.
        seen_bStKGH = jax.lax.map(jax.checkpoint(one_block, prevent_cse=False), queries)
        return jnp.moveaxis(seen_bStKGH, 0, 1).reshape(S, blocks * length, N, H)[:, :T]
