"""Attention and its gradients against a dense formula, on every path: who is seen, what is never in memory, what is saved."""

import functools
import types

import gpus
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding
from jaxprs import equations

from mpo_jax.devices.sharding import spec
from mpo_jax.models.attention import cached, gpu_triton, tpu_splash, xla_blocks
from mpo_jax.models.attention.api import KEYS, QUERIES, TOKENS, attention
from mpo_jax.types import Places

S, T, N, K, H = 2, 13, 4, 2, 3
SEGMENT_ST = np.array([[1] * 6 + [2] * 5 + [0] * 2, [1] * 13], np.int32)
KV_SEGMENT_ST = np.array([[1] * 6 + [2] * 4 + [0] * 3, [1] * 10 + [0] * 3], np.int32)
POSITION_ST = np.array([[*range(6), *range(5), 0, 1], [*range(13)]], np.int32)
WHERE = (POSITION_ST, SEGMENT_ST, KV_SEGMENT_ST)
SCALE = 0.4


def qkv(shape: tuple[int, ...] = (S, T, N, K, H), seed: int = 0) -> list[np.ndarray]:
    S, T, N, K, H = shape
    rng = np.random.default_rng(seed)
    return [3 * rng.normal(size=(S, T, heads, H)).astype(np.float32) for heads in (N, K, K)]


def packed(S: int, T: int, longest: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Rows as packing makes them: some sequences, each with a little padding of its own, then nothing."""
    rng = np.random.default_rng(seed)
    position_ST, segment_ST, kv_segment_ST = (np.zeros((S, T), np.int32) for _ in range(3))
    for s in range(S):
        at, segment = 0, 1
        while at + (length := int(rng.integers(longest // 2, longest))) <= T:
            position_ST[s, at : at + length] = np.arange(length)
            segment_ST[s, at : at + length] = segment
            kv_segment_ST[s, at : at + length - 2] = segment
            at, segment = at + length, segment + 1
    return position_ST, segment_ST, kv_segment_ST


def sees(where, window) -> np.ndarray:
    """[S, T, U]: the contract, word by word."""
    queries, keys = places(where)
    back = queries.position[:, :, None] - keys.position[:, None, :]
    sees = (back >= 0) & (queries.segment[:, :, None] == keys.segment[:, None, :]) & (queries.segment[:, :, None] != 0)
    return sees if window is None else sees & (back < window)


def places(where) -> tuple[Places, Places]:
    """Of queries and keys: those of packed rows, or as they are given."""
    if len(where) == 2:
        return where
    position_ST, segment_ST, kv_segment_ST = where
    return Places(position_ST, segment_ST), Places(position_ST, kv_segment_ST)


def dense(q_STNH, k_STKH, v_STKH, where, softcap, window, scale=SCALE):
    group = q_STNH.shape[2] // k_STKH.shape[2]
    k_STNH, v_STNH = (jnp.repeat(x, group, axis=2) for x in (k_STKH, v_STKH))
    score = jnp.einsum("stnh,sunh->sntu", q_STNH, k_STNH, precision="highest") * scale
    score = score if softcap is None else softcap * jnp.tanh(score / softcap)
    sees_S1TT = sees(where, window)[:, None]
    weight = jnp.where(sees_S1TT, jax.nn.softmax(jnp.where(sees_S1TT, score, -1e9), axis=3), 0.0)
    return jnp.einsum("sntu,sunh->stnh", weight, v_STNH, precision="highest")


def result_and_gradients(f, q, k, v) -> list[np.ndarray]:
    """The gradients of a sum with random weights."""
    weight = np.random.default_rng(9).normal(size=q.shape).astype(np.float32)

    def total(q, k, v):
        out = f(q, k, v)
        return jnp.sum(out * weight), out

    (_, out), grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return [np.asarray(x) for x in (out, *grads)]


def assert_same(got, want, tolerance):
    for name, a, b in zip(("result", "q", "k", "v"), got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance, err_msg=name)


def by_blocks(where, softcap, window, block=xla_blocks.BLOCK, rows_at_once=None):
    return lambda q, k, v: xla_blocks.attend(
        *(q, k, v, *places(where)),
        scale=SCALE,
        softcap=softcap,
        window=window,
        saved_as="attention",
        rows_at_once=rows_at_once,
        block=block,
    )


INTERPRET = jax.default_backend() != "gpu"  # on a GPU these tests run the kernels themselves


def by_triton(where, softcap=None, window=None, scale=SCALE):
    how = {"scale": scale, "softcap": softcap, "window": window, "saved_as": "attention", "interpret": INTERPRET}
    return lambda q, k, v: gpu_triton.attend(q, k, v, *places(where), **how)


@pytest.fixture
def small_tiles(monkeypatch):
    """Kernels that take 16 queries and 32 keys at a time, or the other way round."""
    one, other = gpu_triton.Tile(16, 32, 4, 2), gpu_triton.Tile(32, 16, 4, 2)
    monkeypatch.setattr(gpu_triton, "TILES", {256: gpu_triton.Tiles(one, one, other)})


@functools.cache
def wanted(softcap, window):
    return result_and_gradients(lambda *x: dense(*x, WHERE, softcap, window), *qkv())


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_blocks_equal_the_dense_formula(softcap, window):
    got = result_and_gradients(by_blocks(WHERE, softcap, window, block=5), *qkv())
    assert_same(got, wanted(softcap, window), 2e-5)


@pytest.mark.parametrize(("block", "rows_at_once"), [(512, None), (1, None), (5, 2)])
def test_how_rows_are_cut_does_not_matter(block, rows_at_once):
    got = result_and_gradients(by_blocks(WHERE, 2.0, 3, block, rows_at_once), *qkv())
    assert_same(got, wanted(2.0, 3), 2e-5)


@pytest.mark.parametrize("seed", range(3))
def test_segments_may_come_in_any_order(seed):
    """Blocks that are skipped are empty whatever the row looks like."""
    rng = np.random.default_rng(seed)
    where = (POSITION_ST, *rng.integers(0, 4, (2, S, T)).astype(np.int32))
    got = result_and_gradients(by_blocks(where, None, 4, block=2), *qkv())
    assert_same(got, result_and_gradients(lambda *x: dense(*x, where, None, 4), *qkv()), 2e-5)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("block", [256, 2])
def test_queries_see_a_cache_of_keys(window, block):
    """Two queries a row at places of their own, and keys of which each row has filled another number."""
    queries = Places(np.array([[4, 5], [9, 10]], np.int32), np.ones((2, 2), np.int32))
    filled = np.arange(13)[None] < np.array([[6], [11]])
    keys = Places(np.broadcast_to(np.arange(13, dtype=np.int32), (2, 13)), filled.astype(np.int32))
    q, k, v = qkv()
    got = result_and_gradients(by_blocks((queries, keys), 2.0, window, block), q[:, :2], k, v)
    assert_same(got, result_and_gradients(lambda *x: dense(*x, (queries, keys), 2.0, window), q[:, :2], k, v), 2e-5)
    assert sees((queries, keys), window).sum() == (12 if window else 5 + 6 + 10 + 11)


def test_blocks_that_nobody_sees_are_not_visited():
    """Non-finite numbers in another sequence's blocks do no harm, because nothing there is computed."""
    where = tuple(x[:1] for x in packed(1, 64, longest=17))
    first, last = np.flatnonzero(where[1][0] == 2)[[0, -1]]
    blocks = slice(first // 4 * 4, last // 4 * 4 + 4)  # the blocks that the second sequence touches
    whole = slice(-(-first // 4) * 4, (last + 1) // 4 * 4)  # the blocks that it has to itself
    assert whole.start < whole.stop
    attend = jax.jit(by_blocks(where, None, None, block=4))
    q, k, v = qkv((1, 64, N, K, H))
    out = np.asarray(attend(q, k, v))
    for x in (k, v):
        x[:, : blocks.start] = x[:, blocks.stop :] = np.nan
    np.testing.assert_array_equal(np.asarray(attend(q, k, v))[:, whole], out[:, whole])


def test_blocks_after_a_query_are_not_visited():
    """Non-finite numbers later in the same sequence do no harm to what comes before."""
    where = Places(np.arange(64, dtype=np.int32)[None], np.ones((1, 64), np.int32))
    attend = jax.jit(by_blocks((where, where), None, None, block=4))
    q, k, v = qkv((1, 64, N, K, H))
    out = np.asarray(attend(q, k, v))
    k[:, 32:] = v[:, 32:] = np.nan
    np.testing.assert_array_equal(np.asarray(attend(q, k, v))[:, :32], out[:, :32])


FAMILIES = {  # heads, key/value heads, soft-cap, window
    "llama": (4, 2, None, None),
    "gemma2_global": (2, 1, 50.0, None),
    "gemma2_sliding": (2, 1, 50.0, 40),
    "qwen": (7, 1, None, None),
}


@pytest.mark.parametrize(("family", "fused_blocks"), [*((family, 4) for family in FAMILIES), ("gemma2_sliding", 0)])
def test_splash_equals_the_dense_formula(family, fused_blocks, monkeypatch):
    """The TPU kernel, interpreted: rows that are no multiple of its block, padding that looks, segment 0."""
    monkeypatch.setattr(tpu_splash, "FUSED_BLOCKS", fused_blocks)
    N, K, softcap, window = FAMILIES[family]
    shape, where = (2, 200, N, K, 8), packed(2, 200, longest=100)
    splash = functools.partial(
        tpu_splash.attend, scale=SCALE, softcap=softcap, window=window, saved_as="attention", interpret=True
    )
    got = result_and_gradients(lambda q, k, v: splash(q, k, v, *where[1:]), *qkv(shape))
    assert_same(got, result_and_gradients(lambda *x: dense(*x, where, softcap, window), *qkv(shape)), 2e-4)


TRITON = {  # heads, key/value heads, width of a head, soft-cap, window
    "llama": (4, 2, 64, None, None),
    "llama, wide": (2, 1, 128, None, None),
    "gemma2_sliding": (2, 1, 16, 50.0, 40),
    "qwen": (7, 1, 16, None, None),
    "a width that is no power of 2": (2, 2, 24, None, None),
}


@pytest.mark.parametrize("tiles", ["tiles", "small_tiles"])
@pytest.mark.parametrize("family", TRITON)
def test_triton_equals_the_dense_formula(family, tiles, request):
    """A GPU's kernels: rows that are no multiple of a block, padding that looks, segment 0."""
    if tiles == "small_tiles":
        request.getfixturevalue(tiles)
    N, K, H, softcap, window = TRITON[family]
    x, where, scale = qkv((2, 203, N, K, H)), packed(2, 203, longest=100), 0.5 / H**0.5
    got = result_and_gradients(by_triton(where, softcap, window, scale), *x)
    want = result_and_gradients(lambda *x: dense(*x, where, softcap, window, scale), *x)
    assert_same(got, want, 1e-4)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("seed", range(2))
def test_triton_takes_places_in_any_order(small_tiles, seed, window):
    """Other queries than keys, in other numbers; positions and segments without order."""
    rng = np.random.default_rng(seed)
    queries, keys = (Places(*rng.integers(0, [[[9]], [[3]]], (2, 2, n)).astype(np.int32)) for n in (40, 75))
    q, k, v = qkv((2, 75, 2, 1, 16))
    got = result_and_gradients(by_triton((queries, keys), None, window), q[:, :40], k, v)
    assert_same(got, result_and_gradients(lambda *x: dense(*x, (queries, keys), None, window), q[:, :40], k, v), 1e-4)


@pytest.mark.parametrize("read", ["forward", "gradients"])
def test_triton_visits_no_block_that_nobody_sees(small_tiles, read):
    """Non-finite numbers in the blocks of other sequences do no harm, in either pass."""
    segment = np.repeat(np.arange(1, 5, dtype=np.int32), 32)[None]
    where = (np.tile(np.arange(32, dtype=np.int32), 4)[None], segment, segment)
    attend = by_triton(where)
    run = jax.jit(attend if read == "forward" else jax.grad(lambda *x: jnp.sum(jnp.square(attend(*x)[:, 32:64])), (0, 1, 2)))
    x = qkv((1, 128, 2, 1, 16))
    clean = jax.tree.map(lambda y: np.asarray(y)[:, 32:64], run(*x))
    for y in x:
        y[:, :32] = y[:, 64:] = np.nan
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda y: np.asarray(y)[:, 32:64], run(*x)), clean)


def test_triton_visits_no_block_after_a_query(small_tiles):
    where = Places(np.arange(64, dtype=np.int32)[None], np.ones((1, 64), np.int32))
    q, k, v = qkv((1, 64, 2, 1, 16))
    attend = jax.jit(by_triton((where, where)))
    out = np.asarray(attend(q, k, v))
    k[:, 32:] = v[:, 32:] = np.nan
    np.testing.assert_array_equal(np.asarray(attend(q, k, v))[:, :32], out[:, :32])


def test_triton_rounds_no_more_than_bfloat16_does():
    """Result and gradients of bfloat16, as far from float32's as one rounding of a weight."""
    where, shape, scale = packed(1, 150, longest=80), (1, 150, 2, 1, 64), 0.05
    x = [np.asarray(y.astype(jnp.bfloat16)) for y in qkv(shape)]
    got = result_and_gradients(by_triton(where, scale=scale), *x)
    assert all(y.dtype == jnp.bfloat16 for y in got)
    want = result_and_gradients(lambda *x: dense(*x, where, None, None, scale), *(y.astype(np.float32) for y in x))
    for name, a, b in zip(("result", "q", "k", "v"), got, want, strict=True):
        assert np.abs(a.astype(np.float32) - b).max() <= 2**-7 * np.abs(b).max(), name


def test_a_query_that_sees_no_key_gives_zero_and_no_nan_gradient():
    splash = functools.partial(tpu_splash.attend, scale=1.0, softcap=2.0, window=None, saved_as="x", interpret=True)
    for attend in (
        by_blocks((POSITION_ST, SEGMENT_ST, 9 + SEGMENT_ST), 2.0, None),
        lambda *x: splash(*x, SEGMENT_ST, 9 + SEGMENT_ST),
        by_triton((POSITION_ST, SEGMENT_ST, 9 + SEGMENT_ST)),
    ):
        assert all(np.all(x == 0) for x in result_and_gradients(attend, *qkv()))


def test_gradient_shows_who_is_seen():
    q, k, v = qkv()
    seen = jax.jacobian(lambda v: jnp.sum(by_blocks(WHERE, None, 3, block=4)(q, k, v), axis=(2, 3)))(v)  # [S, T, S, T, K, H]
    got = np.abs(seen).sum(axis=(4, 5)) > 0
    np.testing.assert_array_equal(got, np.eye(S, dtype=bool)[:, None, :, None] & sees(WHERE, 3)[:, :, None, :])


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_devices_do_not_matter(shape):
    """Each device has other rows, and takes another number of steps."""
    sizes, where = (8, 40, 4, 2, H), packed(8, 40, longest=25)
    attend = lambda q, k, v: attention(q, k, v, *places(where), scale=SCALE, softcap=2.0, window=9)  # noqa: E731
    want = result_and_gradients(attend, *qkv(sizes))
    with jax.set_mesh(tiny.mesh(*shape)):
        got = result_and_gradients(attend, *qkv(sizes))
    assert_same(got, want, 1e-6)


def test_bfloat16_is_computed_wider_and_returned_as_it_came():
    q, k, v = (x.astype(jnp.bfloat16) for x in qkv())
    got = attention(q, k, v, *places(WHERE), scale=SCALE, softcap=None, window=None)
    assert got.dtype == jnp.bfloat16
    want = dense(*(x.astype(np.float32) for x in (q, k, v)), WHERE, None, None)
    np.testing.assert_allclose(got.astype(np.float32), want, rtol=2**-8, atol=1e-6)


def saving_attention(f):
    return jax.checkpoint(f, policy=jax.checkpoint_policies.save_only_these_names("attention"), prevent_cse=False)


def loss_of(attend):
    return lambda *x: jnp.sum(jnp.square(attend(*x)))


def splash_2048(window):
    where = packed(1, 2048, longest=500)
    return lambda q, k, v: tpu_splash.attend(
        q, k, v, *where[1:], scale=1.0, softcap=2.0, window=window, saved_as="attention", interpret=True
    )


def paths_2048(path, window):
    if path == "splash":
        return splash_2048(window)
    return (by_blocks if path == "blocks" else by_triton)(packed(1, 2048, longest=500), 2.0, window)


@pytest.mark.parametrize("path", ["blocks", "splash", "triton"])
@pytest.mark.parametrize("window", [None, 300])
def test_no_array_over_queries_times_keys(path, window):
    T = 2048
    attend = paths_2048(path, window)
    jaxpr = jax.make_jaxpr(jax.grad(loss_of(attend), argnums=(0, 1, 2)))(*qkv((1, T, 1, 1, 8)))
    biggest = max(v.aval.size for equation in equations(jaxpr.jaxpr) for v in equation.outvars)
    assert biggest <= T * T // 8


@pytest.mark.parametrize(("path", "kernels"), [("blocks", 2), ("splash", 2), ("triton", 3), ("mesh", 2)])
def test_saved_attention_is_not_computed_again(path, kernels):
    """Under the policy that keeps the name, the backward pass has the loops, or the kernels, of one forward and one backward."""
    count = lambda f, *x: sum(  # noqa: E731
        equation.primitive.name == ("while" if path in ("blocks", "mesh") else "pallas_call")
        for equation in equations(jax.make_jaxpr(f)(*x).jaxpr)
    )
    x = qkv((1, 2048, 1, 1, 8))
    if path != "mesh":
        attend = paths_2048(path, None)
    else:
        attend = lambda q, k, v: attention(q, k, v, *places(packed(1, 2048, longest=500)), scale=1.0, softcap=2.0, window=None)  # noqa: E731
    gradients = lambda f: jax.grad(loss_of(f), argnums=(0, 1, 2))  # noqa: E731
    with jax.set_mesh(tiny.mesh(1, 1, 1)):
        once = count(gradients(attend), *x)
        assert once == kernels
        # Another layer in front, so that what attention reads has to be computed again.
        layer = saving_attention(lambda q, k, v: attend(jnp.sin(q), k, v))
        assert count(gradients(layer), *x) == once
        assert count(gradients(jax.checkpoint(lambda q, k, v: attend(jnp.sin(q), k, v))), *x) == once + 1


def kernels_for_gpus(attend, shapes) -> int:
    """How many Triton kernels result and gradients have, lowered for CUDA."""
    loss = lambda *x: jnp.sum(attend(*x).astype(jnp.float32))  # noqa: E731
    lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*shapes).lower(lowering_platforms=("cuda",))
    return lowered.as_text().count("__gpu$xla.gpu.triton")


@pytest.mark.parametrize(
    ("dtype", "width", "kernels"), [(jnp.bfloat16, 64, 3), (jnp.bfloat16, 256, 3), (jnp.bfloat16, 288, 0), (jnp.float32, 64, 0)]
)
def test_lowers_for_a_mesh_of_gpus(dtype, width, kernels):
    """bfloat16 takes the kernels, one forward and two backward; float32 and wide heads the blocks."""
    shapes = [jax.ShapeDtypeStruct(x.shape, dtype) for x in qkv((8, 40, 4, 2, width))]
    attend = lambda *x: attention(*x, *places(packed(8, 40, longest=25)), scale=1.0, softcap=None, window=None)  # noqa: E731
    with jax.sharding.use_abstract_mesh(tiny.GPUS):
        assert kernels_for_gpus(attend, shapes) == kernels


@pytest.mark.parametrize(("capability", "kernels"), [("7.5", 0), ("gfx942", 0), ("8.0", 3), ("12.0", 3)])
def test_gpus_that_the_kernels_do_not_suit_take_the_blocks(capability, kernels, monkeypatch):
    here = types.SimpleNamespace(platform="gpu", compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda backend=None: [here])
    test_lowers_for_a_mesh_of_gpus(jnp.bfloat16, 64, kernels)


@pytest.mark.parametrize("H", [64, 128, 256])
def test_the_kernels_of_all_tiles_lower_for_a_gpu(H):
    where, shapes = packed(2, 300, longest=90), [jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in qkv((2, 300, 7, 1, H))]
    attend = lambda q, k, v: gpu_triton.attend(  # noqa: E731
        *(q, k, v, *places(where)), scale=1.0, softcap=30.0, window=40, saved_as="attention"
    )
    assert kernels_for_gpus(attend, shapes) == 3


@pytest.mark.slow
@pytest.mark.parametrize("H", [64, 128, 256])
@pytest.mark.parametrize("gpu", gpus.GPUS)
def test_the_kernels_compile_for_a_gpu(gpu, H):
    """Triton's compiler and the assembler take them, and their tiles fit in the shared memory of each."""
    on = gpus.mesh(gpu, (1, 2, 1))
    where = tuple(jax.ShapeDtypeStruct((2, 2000), jnp.int32, sharding=NamedSharding(on, spec(TOKENS, on))) for _ in range(3))
    shapes = [
        jax.ShapeDtypeStruct((2, 2000, heads, H), jnp.bfloat16, sharding=NamedSharding(on, spec(axes, on)))
        for heads, axes in ((8, QUERIES), (4, KEYS), (4, KEYS))
    ]

    def loss(q, k, v, *where):
        return jnp.sum(attention(q, k, v, *places(where), scale=1.0, softcap=30.0, window=700).astype(jnp.float32))

    with jax.sharding.use_abstract_mesh(on.abstract_mesh):
        lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*shapes, *where).lower(lowering_platforms=("cuda",))
        program = lowered.compile().as_text()
    assert gpus.kernels(program) == {"attention_forward": 1, "attention_q_gradient": 1, "attention_kv_gradients": 1}
    assert "all-" not in program


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_one_query_a_row_sees_in_a_cache_what_packed_attention_says(window, softcap):
    random = np.random.default_rng(7)
    S, U, N, K, H = 3, 16, 4, 2, 8
    q, k, v = (random.normal(size=(S, *shape)).astype(np.float32) for shape in ((1, N, H), (U, K, H), (U, K, H)))
    queries = Places(np.asarray([[9], [3], [12]], np.int32), np.ones((S, 1), np.int32))
    position = np.tile(random.permutation(U).astype(np.int32), (S, 1))  # slots in any order, and some that are empty
    keys = Places(position, (random.random((S, U)) < 0.8).astype(np.int32) | (position == queries.position))
    how = {"scale": 0.3, "softcap": softcap, "window": window}
    found = cached.attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), queries, keys, **how)
    expected = xla_blocks.attend(q, k, v, queries, keys, **how, saved_as="x")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
