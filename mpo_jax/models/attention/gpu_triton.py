"""How is attention computed on an NVIDIA GPU? By Triton kernels, written in JAX's Pallas, which never write a score to memory.

FlashAttention-2 (Dao, arXiv:2307.08691): a program owns a block of queries and goes over the blocks of keys with an online
softmax; for the gradients of k and v a program owns a block of keys, and for that of q a block of queries again. No block is
visited that segments, causality and window leave empty, and query heads share their key/value head.

JAX's own Triton kernel, `jax.experimental.pallas.ops.gpu.attention`, does with the same operations less than `api.attention`
promises: queries have the segments of keys, so that a sequence's own padding sees itself; each query head needs a key/value head;
there is no soft-cap and no window; and all blocks before a query are visited.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from mpo_jax.models.attention.block_ranges import meeting, of_keys, ranges
from mpo_jax.types import Array, Places

_SMALLEST = 16  # queries or keys: a tensor core takes no smaller matrices
_HIDDEN = -1e30  # finite: a query that sees no key must give 0, not NaN
_LOG2_E = 1.4426950408889634  # scores are in base 2, whose powers a GPU has


class Tile(NamedTuple):
    """How many queries and keys a program holds at a time, its warps, and how many steps ahead it loads."""

    queries: int
    keys: int
    warps: int
    stages: int


class Tiles(NamedTuple):
    """Those of the three kernels."""

    forward: Tile
    kv_gradients: Tile
    q_gradient: Tile


# For heads up to so wide. In bfloat16 they need less than 100 KiB of shared memory and spill at most 20 bytes of registers, by
# Triton 3.9 for A100 and H100.
TILES = {
    64: Tiles(Tile(128, 64, 8, 2), Tile(64, 64, 8, 2), Tile(64, 64, 4, 2)),
    128: Tiles(Tile(128, 64, 8, 2), Tile(64, 64, 8, 2), Tile(64, 64, 8, 2)),
    256: Tiles(Tile(64, 32, 8, 2), Tile(32, 32, 8, 1), Tile(32, 32, 8, 1)),
}


@dataclasses.dataclass(frozen=True)
class _How:
    """The static settings. G query heads share a key/value head."""

    G: int
    scale: float
    softcap: float | None
    window: int | None
    tiles: Tiles
    saved_as: str
    interpret: bool


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
    interpret: bool = False,
) -> Array:
    """`api.attention` on one device, for heads of at most 256.

    The result and its log-sum-exps have the checkpoint name `saved_as`. Products are summed in float32; weights are rounded to
    the dtype of v before they meet it. `interpret` runs the kernels on any platform, slowly.
    """
    T, N, H = q_STNH.shape[1:]
    U, K = k_SUKH.shape[1:3]
    tiles = next(tiles for widest, tiles in TILES.items() if widest >= H)
    tiles = Tiles(*(tile._replace(queries=_fitting(tile.queries, T), keys=_fitting(tile.keys, U)) for tile in tiles))

    def pad(x: Array, block: int, width: int = 0) -> Array:
        """To whole blocks; padding belongs to no sequence. Triton's sizes are powers of 2, a head's too."""
        return jnp.pad(x, [(0, 0), (0, -x.shape[1] % block), (0, 0), (0, width)][: x.ndim])

    t, u, width = max(tile.queries for tile in tiles), max(tile.keys for tile in tiles), pl.next_power_of_2(H) - H
    where = (Places(*(pad(x, t) for x in queries)), Places(pad(keys.position, u), of_keys(pad(keys.segment, u))))
    how = _How(N // K, scale, softcap, window, tiles, saved_as, interpret)
    seen_STNH: Array = _seen(pad(q_STNH, t, width), pad(k_SUKH, u, width), pad(v_SUKH, u, width), where, how)
    return seen_STNH[:, :T, :, :H]


def _fitting(most: int, tokens: int) -> int:
    return max(_SMALLEST, min(most, pl.next_power_of_2(tokens)))


# From here on the queries of a row are b blocks of t tokens, and its keys c blocks of u. `where` is (places of queries, of keys).


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _seen(q_STNH: Array, k_SUKH: Array, v_SUKH: Array, where: Any, how: _How) -> Array:
    return _seen_fwd(q_STNH, k_SUKH, v_SUKH, where, how)[0]


def _seen_fwd(q_STNH: Array, k_SUKH: Array, v_SUKH: Array, where: Any, how: _How) -> tuple[Array, Any]:
    S, T, N, _ = q_STNH.shape
    results = (jax.ShapeDtypeStruct(q_STNH.shape, v_SUKH.dtype), jax.ShapeDtypeStruct((S, N, T), jnp.float32))
    found = _by_queries(_forward, how.tiles.forward, how, where, (q_STNH,), (k_SUKH, v_SUKH), (), results)
    seen_STNH, lse_SNT = checkpoint_name(found, how.saved_as)
    return seen_STNH, (q_STNH, k_SUKH, v_SUKH, where, seen_STNH, lse_SNT)


def _seen_bwd(how: _How, saved: Any, grad_STNH: Array) -> tuple[Array, Array, Array, None]:
    q_STNH, k_SUKH, v_SUKH, where, seen_STNH, lse_SNT = saved
    mean_STN = jnp.sum(seen_STNH.astype(jnp.float32) * grad_STNH.astype(jnp.float32), axis=3)
    by_query, by_key, numbers = (q_STNH, grad_STNH), (k_SUKH, v_SUKH), (lse_SNT, jnp.swapaxes(mean_STN, 1, 2))
    (dq_STNH,) = _by_queries(_q_gradient, how.tiles.q_gradient, how, where, by_query, by_key, numbers, by_query[:1])
    dk_SUKH, dv_SUKH = _by_keys(_kv_gradients, how.tiles.kv_gradients, how, where, by_query, by_key, numbers, by_key)
    return dq_STNH, dk_SUKH, dv_SUKH, None


_seen.defvjp(_seen_fwd, _seen_bwd)


def _by_queries(
    kernel: Callable[..., None],
    tile: Tile,
    how: _How,
    where: Any,
    by_query: Sequence[Array],
    by_key: Sequence[Array],
    numbers: Sequence[Array],
    results: Sequence[Any],
) -> Sequence[Array]:
    """A program for each head and block of queries, with all keys of the row."""
    (S, T, N, H), U = by_query[0].shape, by_key[0].shape[1]
    block = pl.BlockSpec((None, tile.queries, None, H), lambda n, b, s: (s, b, n, 0))
    number = pl.BlockSpec((None, None, tile.queries), lambda n, b, s: (s, n, b))
    row = pl.BlockSpec((None, U, None, H), lambda n, b, s: (s, 0, jax.lax.div(n, how.G), 0))
    place = pl.BlockSpec((None, tile.queries), lambda n, b, s: (s, b))
    places = pl.BlockSpec((None, U), lambda n, b, s: (s, 0))
    bound = pl.BlockSpec((None, None), lambda n, b, s: (s, b))
    inputs = [
        *((x, block) for x in by_query),
        *((x, row) for x in by_key),
        *((x, number) for x in numbers),
        *((x, place) for x in where[0]),
        *((x, places) for x in where[1]),
        *((x, bound) for x in jax.vmap(ranges)(_meeting(where, tile, how))),
    ]
    outputs = [(x, block if len(x.shape) == 4 else number) for x in results]
    return _run(kernel, tile, how, (N, T // tile.queries, S), inputs, outputs)


def _by_keys(
    kernel: Callable[..., None],
    tile: Tile,
    how: _How,
    where: Any,
    by_query: Sequence[Array],
    by_key: Sequence[Array],
    numbers: Sequence[Array],
    results: Sequence[Any],
) -> Sequence[Array]:
    """A program for each key/value head and block of keys, with all queries of the row and all heads that read this one."""
    (S, U, K, H), T = by_key[0].shape, by_query[0].shape[1]
    block = pl.BlockSpec((None, tile.keys, None, H), lambda k, c, s: (s, c, k, 0))
    row = pl.BlockSpec((None, T, how.G, H), lambda k, c, s: (s, 0, k, 0))
    number = pl.BlockSpec((None, how.G, T), lambda k, c, s: (s, k, 0))
    place = pl.BlockSpec((None, tile.keys), lambda k, c, s: (s, c))
    places = pl.BlockSpec((None, T), lambda k, c, s: (s, 0))
    bound = pl.BlockSpec((None, None), lambda k, c, s: (s, c))
    inputs = [
        *((x, row) for x in by_query),
        *((x, block) for x in by_key),
        *((x, number) for x in numbers),
        *((x, places) for x in where[0]),
        *((x, place) for x in where[1]),
        *((x, bound) for x in jax.vmap(ranges)(jnp.swapaxes(_meeting(where, tile, how), 1, 2))),
    ]
    return _run(kernel, tile, how, (K, U // tile.keys, S), inputs, [(x, block) for x in results])


def _meeting(where: Any, tile: Tile, how: _How) -> Array:
    """bool [S, b, c], of `block_ranges.meeting`."""
    cut = lambda places, block: Places(*(x.reshape(len(x), -1, block) for x in places))  # noqa: E731
    return jax.vmap(functools.partial(meeting, window=how.window))(cut(where[0], tile.queries), cut(where[1], tile.keys))


def _run(
    kernel: Callable[..., None],
    tile: Tile,
    how: _How,
    grid: tuple[int, int, int],
    inputs: Sequence[tuple[Array, pl.BlockSpec]],
    outputs: Sequence[tuple[Any, pl.BlockSpec]],
) -> Sequence[Array]:
    return pl.pallas_call(
        functools.partial(kernel, tile=tile, how=how),
        grid=grid,
        in_specs=[spec for _, spec in inputs],
        out_specs=[spec for _, spec in outputs],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x, _ in outputs],
        compiler_params=triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=how.interpret,
        name=f"attention{kernel.__name__}",
    )(*(x for x, _ in inputs))


def _scores(product: Array, queries: Places, keys: Places, how: _How) -> tuple[Array, Array | None]:
    """(scores in base 2, f32, _HIDDEN where a query does not see the key; the soft-cap's tanh), in the shape of `product`, q . k,
    whose queries and keys lie along different axes."""
    score, tanh = product * how.scale, None
    if how.softcap is not None:
        tanh = jnp.tanh(score / how.softcap)
        score = how.softcap * tanh
    back = queries.position - keys.position
    sees = (back >= 0) & (queries.segment == keys.segment)
    if how.window is not None:
        sees &= back < how.window
    return jnp.where(sees, score * _LOG2_E, _HIDDEN), tanh


def _forward(q, k, v, *refs: Any, tile: Tile, how: _How) -> None:
    """What queries see, and the log-sum-exps of their scores, in base 2; huge for a query that sees nothing."""
    q_position, q_segment, k_position, k_segment, begin, end, seen, lse = refs
    q_tH = q[...]
    queries = Places(q_position[...][:, None], q_segment[...][:, None])

    def step(c: Array, carry: Any) -> Any:
        top_t, sum_t, seen_tH = carry
        here = pl.ds(c * tile.keys, tile.keys)
        k_uH, v_uH = k[here, :], v[here, :]
        keys = Places(k_position[here][None, :], k_segment[here][None, :])
        score_tu, _ = _scores(triton.dot(q_tH, k_uH, trans_b=True), queries, keys, how)
        new_top_t = jnp.maximum(top_t, jnp.max(score_tu, axis=1))
        weight_tu = jnp.exp2(score_tu - new_top_t[:, None])
        shrink_t = jnp.exp2(top_t - new_top_t)
        seen_tH = seen_tH * shrink_t[:, None] + triton.dot(weight_tu.astype(v_uH.dtype), v_uH)
        return new_top_t, sum_t * shrink_t + jnp.sum(weight_tu, axis=1), seen_tH

    start = (
        jnp.full((tile.queries,), _HIDDEN, jnp.float32),
        jnp.zeros((tile.queries,), jnp.float32),
        jnp.zeros(q_tH.shape, jnp.float32),
    )
    top_t, sum_t, seen_tH = jax.lax.fori_loop(begin[...], end[...], step, start)
    # Before its first visible key a query sums over hidden ones; `shrink` then discards that. A query that sees no key keeps it.
    sees_t = top_t > _HIDDEN / 2
    sum_t = jnp.where(sees_t, sum_t, 1.0)
    seen[...] = jnp.where(sees_t[:, None], seen_tH / sum_t[:, None], 0.0).astype(seen.dtype)
    lse[...] = jnp.where(sees_t, top_t + jnp.log2(sum_t), -_HIDDEN)


def _q_gradient(q, grad, k, v, lse, mean, *refs: Any, tile: Tile, how: _How) -> None:
    q_position, q_segment, k_position, k_segment, begin, end, dq = refs
    q_tH, grad_tH, lse_t, mean_t = q[...], grad[...], lse[...], mean[...]
    queries = Places(q_position[...][:, None], q_segment[...][:, None])

    def step(c: Array, dq_tH: Array) -> Array:
        here = pl.ds(c * tile.keys, tile.keys)
        k_uH, v_uH = k[here, :], v[here, :]
        keys = Places(k_position[here][None, :], k_segment[here][None, :])
        score_tu, tanh_tu = _scores(triton.dot(q_tH, k_uH, trans_b=True), queries, keys, how)
        weight_tu = jnp.exp2(score_tu - lse_t[:, None])
        dscore_tu = weight_tu * (triton.dot(grad_tH, v_uH, trans_b=True) - mean_t[:, None])
        if tanh_tu is not None:
            dscore_tu *= 1 - jnp.square(tanh_tu)
        return dq_tH + triton.dot(dscore_tu.astype(k_uH.dtype), k_uH)

    dq_tH = jax.lax.fori_loop(begin[...], end[...], step, jnp.zeros(q_tH.shape, jnp.float32))
    dq[...] = (dq_tH * how.scale).astype(dq.dtype)


def _kv_gradients(q, grad, k, v, lse, mean, *refs: Any, tile: Tile, how: _How) -> None:
    q_position, q_segment, k_position, k_segment, begin, end, dk, dv = refs
    k_uH, v_uH = k[...], v[...]
    keys = Places(k_position[...][:, None], k_segment[...][:, None])

    def head(g: Array, kv_grads: Any) -> Any:
        def step(b: Array, carry: Any) -> Any:
            dk_uH, dv_uH = carry
            here = pl.ds(b * tile.queries, tile.queries)
            q_tH, grad_tH, lse_t, mean_t = q[here, g, :], grad[here, g, :], lse[g, here], mean[g, here]
            queries = Places(q_position[here][None, :], q_segment[here][None, :])
            score_ut, tanh_ut = _scores(triton.dot(k_uH, q_tH, trans_b=True), queries, keys, how)
            weight_ut = jnp.exp2(score_ut - lse_t[None, :])
            dscore_ut = weight_ut * (triton.dot(v_uH, grad_tH, trans_b=True) - mean_t[None, :])
            if tanh_ut is not None:
                dscore_ut *= 1 - jnp.square(tanh_ut)
            dk_uH += triton.dot(dscore_ut.astype(q_tH.dtype), q_tH)
            return dk_uH, dv_uH + triton.dot(weight_ut.astype(grad_tH.dtype), grad_tH)

        return jax.lax.fori_loop(begin[...], end[...], step, kv_grads)

    zeros_uH = jnp.zeros(k_uH.shape, jnp.float32)
    dk_uH, dv_uH = jax.lax.fori_loop(0, how.G, head, (zeros_uH, zeros_uH))
    dk[...] = (dk_uH * how.scale).astype(dk.dtype)
    dv[...] = dv_uH.astype(dv.dtype)
