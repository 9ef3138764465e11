"""How is attention computed on a TPU? By JAX's splash kernel, which never writes a score to memory.

It skips the blocks that causality and window leave empty, and masks by segment within the others. Key/value heads are shared
within the kernel, not repeated.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mpo_jax.types import Array

BLOCK = 512  # tokens at most, of queries and of keys
LANES = 128  # a block is a multiple of this
# The fused backward kernel makes a partial gradient of q for each block of keys; with more blocks than this, q's gradient gets a
# kernel of its own, which computes the scores once more.
FUSED_BLOCKS = 4


def attend(
    q_STNH: Array,
    k_STKH: Array,
    v_STKH: Array,
    segment_ST: Array,
    kv_segment_ST: Array,
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
    saved_as: str,
    interpret: bool = False,
) -> Array:
    """`api.attention` on one device, for rows whose segments are contiguous.

    The result and its log-sum-exps have the checkpoint name `saved_as`. `interpret` runs the kernel on any platform, slowly.
    """
    T = q_STNH.shape[1]
    blocks = -(-T // BLOCK)
    block = -(-T // (blocks * LANES)) * LANES
    length = blocks * block
    pad = lambda x: jnp.pad(x, [(0, 0), (0, length - T)] + [(0, 0)] * (x.ndim - 2))  # noqa: E731
    q_STNH, k_STKH, v_STKH, segment_ST, kv_segment_ST = map(pad, (q_STNH, k_STKH, v_STKH, segment_ST, kv_segment_ST))
    kv_segment_ST = jnp.where(kv_segment_ST == 0, -1, kv_segment_ST)  # segment 0 is no sequence: no query has that number

    q_STNH = (q_STNH.astype(jnp.float32) * scale).astype(q_STNH.dtype)
    q_SNTH, k_SKTH, v_SKTH = (jnp.swapaxes(x, 1, 2) for x in (q_STNH, k_STKH, v_STKH))
    kernel = _kernel(q_SNTH.shape[1], length, block, softcap, window, saved_as, interpret)
    seen_SNTH = jax.vmap(kernel)(q_SNTH, k_SKTH, v_SKTH, segment_ST, kv_segment_ST)
    seen_STNH = jnp.swapaxes(seen_SNTH, 1, 2)
    # For a query that sees nothing the kernel returns a mean over hidden keys.
    return jnp.where(_sees_any(segment_ST, kv_segment_ST, window)[:, :, None, None], seen_STNH, 0)[:, :T]


def _kernel(
    heads: int, length: int, block: int, softcap: float | None, window: int | None, saved_as: str, interpret: bool
) -> Any:
    # Imported here: Pallas is slow to import, and only a TPU needs it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    shape = (length, length)
    mask = masks.CausalMask(shape) if window is None or window >= length else masks.LocalMask(shape, (window - 1, 0), 0)
    fused = length <= FUSED_BLOCKS * block
    own = None if fused else block
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(
            *(block, block, block),  # queries, keys, keys at a time: forward
            *(block, block, block),  # and for the gradients of k and v
            *(own, own),  # queries, keys: for the gradient of q
            use_fused_bwd_kernel=fused,
        ),
        attn_logits_soft_cap=softcap,
        residual_checkpoint_name=saved_as,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    return lambda q, k, v, segment, kv_segment: kernel(q, k, v, segment_ids=splash.SegmentIds(segment, kv_segment))


def _sees_any(segment_ST: Array, kv_segment_ST: Array, window: int | None) -> Array:
    """Whether the nearest real key at or before a query is one that it sees."""
    index_T = jnp.arange(segment_ST.shape[1])
    nearest_ST = jax.lax.cummax(jnp.where(kv_segment_ST == -1, -1, index_T[None, :]), axis=1)
    sees_ST = jnp.take_along_axis(kv_segment_ST, jnp.maximum(nearest_ST, 0), axis=1) == segment_ST
    if window is not None:
        sees_ST &= index_T[None, :] - nearest_ST < window
    return sees_ST
