"""Which query sees which keys, and with what result? Grouped-query attention within segments, on packed rows or a cache of keys.

No platform holds an array of queries x keys for a full row: a kernel goes block by block and saves, for its backward pass, the
result and one log-sum-exp per query.
"""

import jax
import jax.numpy as jnp

from mpo_jax.devices.sharding import spec
from mpo_jax.models.attention import tpu_splash, xla_blocks
from mpo_jax.types import Array, Places

SAVED_AS = "attention"  # checkpoint name of the result and of what else the backward pass reads: remat policies keep it
LARGEST_TRITON_HEAD = 256  # of Gemma: a wider one leaves no room for others in a GPU's shared memory
QUERIES, KEYS, TOKENS = ("batch", None, "heads", None), ("batch", None, "kv_heads", None), ("batch", None)


def attention(
    q_STNH: Array,
    k_SUKH: Array,
    v_SUKH: Array,
    queries: Places,
    keys: Places,
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Array:
    """What each query sees, [S, T, N, H] in the dtype of v; softmax in float32.

    A query sees the keys of its segment at its own position and at earlier ones, fewer than `window` positions back (None = any
    number; Hugging Face's convention, where a window of 1 is the query itself). Segment 0 is no sequence: it sees nothing and is
    not seen. Scores are multiplied by `scale`, then capped to softcap * tanh(score / softcap). A query that sees no key gives 0.
    Query head n reads key/value head n // (N / K).

    Queries and keys may differ in number and position (for one query a row on a cache, `cached.attend` is faster). Where there
    are equally many (T = U), both are the tokens of packed rows: segments are contiguous, and positions count up by one within
    them. On a mesh each device computes its own rows and heads. The platform of the mesh (or, without one, of JAX) decides which
    kernel runs:

    * TPU: JAX's splash kernel for packed rows, blocks in plain XLA for others.
    * GPU: Triton kernels for bfloat16 and heads of at most 256, on NVIDIA's from Ampere on. Elsewhere, for wider heads, and for
      float32, in which Triton uses no tensor cores, blocks in plain XLA, rows together.
    * CPU: blocks in plain XLA, row by row, in float32.
    """
    mesh = jax.sharding.get_abstract_mesh()
    platform = mesh.abstract_device.platform if not mesh.empty and mesh.abstract_device else jax.default_backend()

    def on_device(q_STNH: Array, k_SUKH: Array, v_SUKH: Array, queries: Places, keys: Places) -> Array:
        how = {"scale": scale, "softcap": softcap, "window": window, "saved_as": SAVED_AS}
        if platform == "tpu" and q_STNH.shape[1] == k_SUKH.shape[1]:
            return tpu_splash.attend(q_STNH, k_SUKH, v_SUKH, queries.segment, keys.segment, **how)
        narrow = q_STNH.shape[3] <= LARGEST_TRITON_HEAD
        if platform == "gpu" and q_STNH.dtype == jnp.bfloat16 and narrow and _gpus_run_triton():
            from mpo_jax.models.attention import gpu_triton  # not before it is needed: Pallas is slow to import

            return gpu_triton.attend(q_STNH, k_SUKH, v_SUKH, queries, keys, **how)
        rows_at_once = q_STNH.shape[0]
        if platform == "cpu":
            # A CPU multiplies bfloat16 many times more slowly than float32.
            q_STNH, k_SUKH, v_SUKH = (x.astype(jnp.float32) for x in (q_STNH, k_SUKH, v_SUKH))
            rows_at_once = None
        return xla_blocks.attend(q_STNH, k_SUKH, v_SUKH, queries, keys, rows_at_once=rows_at_once, **how)

    with jax.named_scope("attention"):
        if not mesh.empty:
            # The number of steps of a row depends on its segments, so it differs between devices. Nothing is reduced over them.
            inputs = tuple(map(spec, (QUERIES, KEYS, KEYS, TOKENS, TOKENS)))
            on_device = jax.shard_map(on_device, in_specs=inputs, out_specs=spec(QUERIES), check_vma=False)
        return on_device(q_STNH, k_SUKH, v_SUKH, queries, keys).astype(v_SUKH.dtype)


def _gpus_run_triton() -> bool:
    """Whether the kernels suit every GPU of this process. One without any makes programs for others, which they are taken to
    suit."""
    capabilities = [device.compute_capability for device in jax.local_devices() if device.platform == "gpu"]
    return all(capability[:1].isdigit() and float(capability) >= 8.0 for capability in capabilities)  # AMD's are names
