"""Who sees whom, and what do they see? Grouped-query attention within the segments of packed rows.

No array over queries x keys of a whole row exists on any platform: a kernel goes block by block and saves, for its backward
pass, the result and one log-sum-exp a query.
"""

import jax
import jax.numpy as jnp

from mpo_jax.devices.sharding import spec
from mpo_jax.models.attention import tpu_splash, xla_blocks
from mpo_jax.types import Array

SAVED_AS = "attention"  # checkpoint name of the result and of what else the backward pass reads: remat policies keep it
QUERIES, KEYS, TOKENS = ("batch", None, "heads", None), ("batch", None, "kv_heads", None), ("batch", None)


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
) -> Array:
    """What each query sees, [S, T, N, H] in the dtype of v; softmax in float32.

    A query sees a key that is not after it in its row, has the query's segment as its kv_segment, and lies fewer than `window`
    positions back (None = any number; Hugging Face's convention, where a window of 1 is the query itself). Segment 0 is no
    sequence: it sees nothing and is not seen. Scores are multiplied by `scale`, then capped to softcap * tanh(score / softcap).
    A query that sees no key gives 0. Query head n reads key/value head n // (N / K).

    The segments of a row are contiguous, and positions count up by one within them; the TPU kernel relies on it. Inside of a
    mesh each device computes its own rows and heads. The platform that the mesh (or else JAX) computes on chooses the kernel:

    * TPU: JAX's splash kernel.
    * GPU: blocks in plain XLA, rows together. JAX's Triton kernel has one segment id for queries and keys, so a sequence's own
      padding could not look without being looked at, and it has neither soft-cap nor window; cuDNN's public interface takes
      segments as an array of queries x keys only.
    * CPU: blocks in plain XLA, row by row, in float32.
    """
    mesh = jax.sharding.get_abstract_mesh()
    platform = mesh.abstract_device.platform if not mesh.empty and mesh.abstract_device else jax.default_backend()

    def on_device(q_STNH: Array, k_STKH: Array, v_STKH: Array, position_ST: Array, *segments: Array) -> Array:
        if platform == "tpu":
            splash = tpu_splash.attend
            return splash(q_STNH, k_STKH, v_STKH, *segments, scale=scale, softcap=softcap, window=window, saved_as=SAVED_AS)
        rows_at_once = q_STNH.shape[0]
        if platform == "cpu":
            # A CPU multiplies bfloat16 many times slower than float32.
            q_STNH, k_STKH, v_STKH = (x.astype(jnp.float32) for x in (q_STNH, k_STKH, v_STKH))
            rows_at_once = None
        return xla_blocks.attend(
            *(q_STNH, k_STKH, v_STKH, position_ST, *segments),
            scale=scale,
            softcap=softcap,
            window=window,
            saved_as=SAVED_AS,
            rows_at_once=rows_at_once,
        )

    with jax.named_scope("attention"):
        if not mesh.empty:
            # Rows take as many steps as their segments ask for, so devices differ. Nothing is reduced over them.
            inputs = tuple(map(spec, (QUERIES, KEYS, KEYS, TOKENS, TOKENS, TOKENS)))
            on_device = jax.shard_map(on_device, in_specs=inputs, out_specs=spec(QUERIES), check_vma=False)
        return on_device(q_STNH, k_STKH, v_STKH, position_ST, segment_ST, kv_segment_ST).astype(v_STKH.dtype)
