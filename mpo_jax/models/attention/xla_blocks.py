"""How is attention computed where there is no kernel for it? Block by block, in plain XLA.

The forward pass keeps a running maximum and sum per query (the online softmax) and saves the result and its log-sum-exp; the
backward pass recomputes each block of scores. Blocks that causality, segments and window leave empty are never visited: in a
packed row of five sequences that is four blocks in five.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mpo_jax.models.attention.block_ranges import meeting, of_keys, ranges
from mpo_jax.types import Array, Places

BLOCK = 256  # queries and keys: on a CPU 512 is up to three times slower, 128 about the same
_HIDDEN = -1e30  # finite: a query that sees no key must give 0, not NaN


@dataclasses.dataclass(frozen=True)
class _How:
    """The static settings. G query heads share a key/value head."""

    G: int
    scale: float
    softcap: float | None
    window: int | None
    rows_at_once: int | None
    saved_as: str


def attend(
    q_STNH: Array,
    k_SUKH: Array,
    v_SUKH: Array,
    queries: Places,
    keys: Places,
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
    saved_as: str,
    rows_at_once: int | None = None,
    block: int = BLOCK,
) -> Array:
    """`api.attention` on one device.

    The result and its log-sum-exps have the checkpoint name `saved_as`. `rows_at_once` packed rows are computed together, and
    take as many steps as the longest of them; None = one row after the other.
    """
    S, T, N, H = q_STNH.shape
    K = k_SUKH.shape[2]
    how = _How(N // K, scale, softcap, window, rows_at_once, saved_as)

    def cut(x: Array) -> Array:
        """[S, tokens, ...] -> [S, blocks, tokens of a block, ...], evenly split, so that the padding is less than a token per
        block; padding belongs to no sequence."""
        blocks = -(-x.shape[1] // block)
        length = -(-x.shape[1] // blocks)
        x = jnp.pad(x, [(0, 0), (0, blocks * length - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(S, blocks, length, *x.shape[2:])

    q_SbtKGH = cut(q_STNH.reshape(S, T, K, N // K, H))
    blocks, length = q_SbtKGH.shape[1:3]
    q_SbKgH = q_SbtKGH.transpose(0, 1, 3, 4, 2, 5).reshape(S, blocks, K, -1, H)
    k_ScKuH, v_ScKuH = (jnp.swapaxes(cut(x), 2, 3) for x in (k_SUKH, v_SUKH))
    where = (Places(*map(cut, queries)), Places(cut(keys.position), of_keys(cut(keys.segment))))
    seen_SbKgH: Array = _seen(q_SbKgH, k_ScKuH, v_ScKuH, where, how)
    seen_SbKGtH = seen_SbKgH.reshape(S, blocks, K, N // K, length, H)
    return seen_SbKGtH.transpose(0, 1, 4, 2, 3, 5).reshape(S, -1, N, H)[:, :T]


# From here on the queries of a row are split into b blocks of t tokens and its keys into c blocks of u; g are the G * t queries
# of a block that read one key/value head. `where` is (places of the queries, bt; places of the keys, cu).


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _seen(q_SbKgH: Array, k_ScKuH: Array, v_ScKuH: Array, where: Any, how: _How) -> Array:
    return _seen_fwd(q_SbKgH, k_ScKuH, v_ScKuH, where, how)[0]


def _seen_fwd(q_SbKgH: Array, k_ScKuH: Array, v_ScKuH: Array, where: Any, how: _How) -> tuple[Array, Any]:
    inputs = (q_SbKgH, k_ScKuH, v_ScKuH, where)
    seen_and_lse = jax.lax.map(functools.partial(_forward, how=how), inputs, batch_size=how.rows_at_once)
    seen_SbKgH, lse_SbKg = checkpoint_name(seen_and_lse, how.saved_as)
    return seen_SbKgH, (*inputs, seen_SbKgH, lse_SbKg)


def _seen_bwd(how: _How, saved: Any, grad_SbKgH: Array) -> tuple[Array, Array, Array, None]:
    grads = jax.lax.map(functools.partial(_backward, how=how), (*saved, grad_SbKgH), batch_size=how.rows_at_once)
    return *grads, None


_seen.defvjp(_seen_fwd, _seen_bwd)


def _scores(i: Array, j: Array, q_KgH: Array, k_KuH: Array, where: Any, how: _How) -> tuple[Array, Array | None]:
    """(scores of query block i and key block j, f32, _HIDDEN where a query does not see the key; the soft-cap's tanh)."""
    (position_bt, segment_bt), (key_position_cu, key_segment_cu) = where
    score_Kgu = jnp.einsum("KgH,KuH->Kgu", q_KgH, k_KuH, preferred_element_type=jnp.float32) * how.scale
    tanh_Kgu = None
    if how.softcap is not None:
        tanh_Kgu = jnp.tanh(score_Kgu / how.softcap)
        score_Kgu = how.softcap * tanh_Kgu
    back_tu = position_bt[i][:, None] - key_position_cu[j][None, :]
    sees_tu = (back_tu >= 0) & (segment_bt[i][:, None] == key_segment_cu[j][None, :])
    if how.window is not None:
        sees_tu &= back_tu < how.window
    return jnp.where(jnp.tile(sees_tu, (how.G, 1))[None], score_Kgu, _HIDDEN), tanh_Kgu


def _forward(row: Any, how: _How) -> tuple[Array, Array]:
    """One row: (what each query sees, log-sum-exp of its scores); a query that sees nothing has 0 and a huge log-sum-exp."""
    q_bKgH, k_cKuH, v_cKuH, where = row

    def query_block(_: None, x: Any) -> tuple[None, tuple[Array, Array]]:
        i, q_KgH, begin, end = x

        def key_block(j: Array, carry: Any) -> Any:
            top_Kg, sum_Kg, seen_KgH = carry
            score_Kgu, _ = _scores(i, j, q_KgH, k_cKuH[j], where, how)
            new_top_Kg = jnp.maximum(top_Kg, score_Kgu.max(axis=2))
            weight_Kgu = jnp.exp(score_Kgu - new_top_Kg[:, :, None])
            shrink_Kg = jnp.exp(top_Kg - new_top_Kg)
            more_KgH = jnp.einsum("Kgu,KuH->KgH", weight_Kgu.astype(v_cKuH.dtype), v_cKuH[j], preferred_element_type=jnp.float32)
            return new_top_Kg, sum_Kg * shrink_Kg + weight_Kgu.sum(axis=2), seen_KgH * shrink_Kg[:, :, None] + more_KgH

        zeros_KgH = jnp.zeros(q_KgH.shape, jnp.float32)
        zeros_Kg = zeros_KgH[:, :, 0]
        top_Kg, sum_Kg, seen_KgH = jax.lax.fori_loop(begin, end, key_block, (zeros_Kg + _HIDDEN, zeros_Kg, zeros_KgH))
        # Before its first visible key a query sums over hidden ones; `shrink` then discards that. A query that sees no key keeps
        # it.
        sees_Kg = top_Kg > _HIDDEN / 2
        seen_KgH = jnp.where(sees_Kg[:, :, None], seen_KgH / jnp.where(sees_Kg, sum_Kg, 1.0)[:, :, None], 0.0)
        lse_Kg = jnp.where(sees_Kg, top_Kg + jnp.log(jnp.where(sees_Kg, sum_Kg, 1.0)), -_HIDDEN)
        return None, (seen_KgH.astype(v_cKuH.dtype), lse_Kg)

    _, seen_and_lse = jax.lax.scan(
        query_block, None, (jnp.arange(len(q_bKgH)), q_bKgH, *ranges(meeting(*where, window=how.window)))
    )
    return seen_and_lse


def _backward(row: Any, how: _How) -> tuple[Array, Array, Array]:
    """One row: the gradients of q, k and v, summed in float32."""
    q_bKgH, k_cKuH, v_cKuH, where, seen_bKgH, lse_bKg, grad_bKgH = row
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def query_block(kv_grads: Any, x: Any) -> tuple[Any, Array]:
        i, q_KgH, begin, end, seen_KgH, lse_Kg, grad_KgH = x
        mean_Kg = jnp.sum(seen_KgH.astype(jnp.float32) * grad_KgH, axis=2)

        def key_block(j: Array, carry: Any) -> Any:
            dq_KgH, dk_cKuH, dv_cKuH = carry
            score_Kgu, tanh_Kgu = _scores(i, j, q_KgH, k_cKuH[j], where, how)
            weight_Kgu = jnp.exp(score_Kgu - lse_Kg[:, :, None])
            dscore_Kgu = weight_Kgu * (product("KgH,KuH->Kgu", grad_KgH, v_cKuH[j]) - mean_Kg[:, :, None]) * how.scale
            if tanh_Kgu is not None:
                dscore_Kgu *= 1 - jnp.square(tanh_Kgu)
            dscore_Kgu, weight_Kgu = dscore_Kgu.astype(q_KgH.dtype), weight_Kgu.astype(grad_KgH.dtype)
            dk_cKuH = dk_cKuH.at[j].add(product("Kgu,KgH->KuH", dscore_Kgu, q_KgH))
            dv_cKuH = dv_cKuH.at[j].add(product("Kgu,KgH->KuH", weight_Kgu, grad_KgH))
            return dq_KgH + product("Kgu,KuH->KgH", dscore_Kgu, k_cKuH[j]), dk_cKuH, dv_cKuH

        dq_KgH, *kv_grads = jax.lax.fori_loop(begin, end, key_block, (jnp.zeros(q_KgH.shape, jnp.float32), *kv_grads))
        return tuple(kv_grads), dq_KgH.astype(q_KgH.dtype)

    zeros = (jnp.zeros(k_cKuH.shape, jnp.float32), jnp.zeros(v_cKuH.shape, jnp.float32))
    blocks = (jnp.arange(len(q_bKgH)), q_bKgH, *ranges(meeting(*where, window=how.window)), seen_bKgH, lse_bKg, grad_bKgH)
    (dk_cKuH, dv_cKuH), dq_bKgH = jax.lax.scan(query_block, zeros, blocks)
    return dq_bKgH, dk_cKuH.astype(k_cKuH.dtype), dv_cKuH.astype(v_cKuH.dtype)
