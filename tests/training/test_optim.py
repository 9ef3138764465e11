"""The schedule's known values, the clip, and which weights decay."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec

from mpo_jax.errors import InputError
from mpo_jax.training import optim
from mpo_jax.training.optim import OptimConfig, decays, make_optimizer, make_schedule, round_at_random


def test_the_published_runs_schedule():
    """150 updates: W = ceil(0.1 * 150) = 15, first update 0, the peak at 15, half of it halfway, near 0 at the end."""
    schedule = make_schedule(OptimConfig(), 150)
    known = {0: 0, 1: 1 / 15, 14: 14 / 15, 15: 1, 82.5: 0.5, 60: 0.5 * (1 + math.cos(math.pi / 3)), 150: 0, 200: 0}
    np.testing.assert_allclose([schedule(k) for k in known], list(known.values()), atol=1e-6)


@pytest.mark.parametrize(("updates", "W"), [(1, 1), (10, 1), (11, 2), (150, 15), (151, 16)])
def test_warm_up_is_rounded_up(updates, W):
    schedule = make_schedule(OptimConfig(), updates)
    assert schedule(0) == 0
    np.testing.assert_allclose(schedule(W), 1, rtol=1e-6)
    np.testing.assert_allclose(schedule(W - 1), (W - 1) / W, rtol=1e-6)


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("updates", "W"), [(1, 0), (1, 1), (2, 1), (7, 7), (100, 0), (150, 15), (151, 16), (9_999, 3_000)])
def test_every_learning_rate_is_the_documented_one(updates, W, decay):
    """To a millionth of the peak, whether the number of the update is known or an argument of a program."""
    schedule = make_schedule(OptimConfig(warmup=max(W - 0.5, 0) / updates, decay=decay), updates)
    k = np.arange(updates)
    done = np.clip((k - W) / max(updates - W, 1), 0, 1)
    after = {"cosine": 0.5 * (1 + np.cos(np.pi * done)), "linear": 1 - done, "constant": np.ones(updates)}[decay]
    expected = np.where(k < W, k / max(W, 1), after)
    found = np.asarray(jax.jit(jax.vmap(schedule))(k))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert schedule(0) == found[0] == (0 if W else 1)
    assert schedule(updates - 1) == pytest.approx(float(found[-1]), rel=1e-6, abs=1e-6)


def one_update(config, params, grads, updates=10):
    optimizer = make_optimizer(config, updates)
    return jax.jit(optimizer.update)(params, grads, jax.jit(optimizer.transform.init)(params), 0, config.peak_lr)[0]


def test_the_first_update_has_learning_rate_zero():
    params = {"w": jnp.ones(3)}
    assert jnp.array_equal(one_update(OptimConfig(peak_lr=1.0), params, {"w": jnp.full(3, 5.0)})["w"], params["w"])


def test_the_clip_is_of_the_global_norm():
    """A clipped gradient enters Adam's first moment as g * clip / norm over all leaves together, a short one as it is."""
    transform = make_optimizer(OptimConfig(clip_norm=1.0), 10).transform
    for scale, expected in ((1.0, 1 / 5), (0.1, 1.0)):
        grads = {"a": scale * jnp.asarray([3.0]), "b": scale * jnp.asarray([4.0])}
        _, state = transform.update(grads, transform.init(grads), grads)
        moments = jax.tree.leaves(state[1].mu)
        np.testing.assert_allclose(jnp.concatenate(moments), 0.1 * scale * expected * np.asarray([3.0, 4.0]), rtol=1e-6)


def test_an_infinite_norm_clips_nothing():
    transform = make_optimizer(OptimConfig(clip_norm=math.inf), 10).transform
    grads = {"a": jnp.asarray([3.0, 4.0]), "b": jnp.zeros(2)}
    for scale in (1.0, 0.0):
        given = jax.tree.map(lambda g: scale * g, grads)  # noqa: B023
        _, state = transform.update(given, transform.init(grads), grads)
        np.testing.assert_allclose(state[1].mu["a"], 0.1 * given["a"], rtol=1e-6)


def test_weight_decay_spares_norms_and_biases():
    model = tiny.model(tied=False, qkv_bias=True, norms="both")
    params = jax.tree.map(lambda x: jnp.ones(x.shape), model.abstract())
    grads = jax.tree.map(jnp.zeros_like, params)
    after = one_update(OptimConfig(peak_lr=0.1, warmup=0.0, decay="constant", weight_decay=0.5), params, grads)
    matrices = [x for x, decayed in zip(jax.tree.leaves(after), jax.tree.leaves(decays(params)), strict=True) if decayed]
    others = [x for x, decayed in zip(jax.tree.leaves(after), jax.tree.leaves(decays(params)), strict=True) if not decayed]
    assert len(matrices) == 9  # q k v o, gate up down, embedding, unembedding
    assert len(others) == 8  # three biases, four norms a layer, the final norm
    for x in matrices:
        np.testing.assert_allclose(x, 0.95, rtol=1e-6)
    for x in others:
        np.testing.assert_array_equal(x, 1.0)


def test_moments_take_their_dtype():
    for dtype in ("float32", "bfloat16"):
        state: Any = make_optimizer(OptimConfig(moments_dtype=dtype), 10).transform.init({"w": jnp.ones(3)})
        adam = state[1]
        assert (adam.mu["w"].dtype, adam.nu["w"].dtype) == (dtype, dtype)


GRADS = [0.01 * np.random.default_rng(k).normal(size=(128, 256)).astype(np.float32) for k in range(4)]


def updates_of(config, grads):
    """The updates that these gradients make, one after the other."""
    optimizer = make_optimizer(config, 10)
    params = {"w": jnp.zeros(grads[0].shape)}
    state, updates, update = optimizer.transform.init(params), [], jax.jit(optimizer.update)
    for k, grad in enumerate(grads):
        after, state, _ = update(params, {"w": jnp.asarray(grad)}, state, k, config.peak_lr)
        updates.append(np.asarray(after["w"]))
    return updates


def test_adafactor_is_adam_where_it_does_not_factor():
    """A vector, no first moment, updates whose root mean square is at most 1: Adam's numbers."""
    grads = [0.5**k * np.asarray([1.0, -1.0, 1.0], np.float32) for k in range(4)]
    same = dict(peak_lr=0.1, warmup=0.0, b1=0.0, b2=0.95, clip_norm=1e9)
    adam, factored = (updates_of(OptimConfig(kind=kind, **same), grads) for kind in ("adamw", "adafactor"))
    np.testing.assert_allclose(factored, adam, rtol=1e-5)


def test_adafactor_factors_what_is_wide():
    """Gradients of rank one have a second moment that is its factors' product, so Adam's numbers again; others come close."""
    same = dict(peak_lr=0.1, warmup=0.0, b1=0.0, b2=0.95, clip_norm=1e9)
    rank_one = [np.outer(np.full(128, 0.9**k), np.arange(1, 257) / 256).astype(np.float32) for k in range(4)]
    adam, factored = (updates_of(OptimConfig(kind=kind, **same), rank_one) for kind in ("adamw", "adafactor"))
    np.testing.assert_allclose(factored, adam, rtol=1e-4)
    state = make_optimizer(OptimConfig(kind="adafactor", moments_dtype="bfloat16"), 10).transform.init(
        {"w": jnp.ones((128, 256))}
    )
    sizes = sorted((x.size, x.dtype) for x in jax.tree.leaves(state) if x.size > 1)
    assert sizes == [(128, jnp.float32), (256, jnp.float32), (128 * 256, jnp.bfloat16)]


def test_adafactor_keeps_schedule_decay_and_signs():
    config = OptimConfig(kind="adafactor", peak_lr=0.1, warmup=0.0, clip_norm=1e9)
    updates = updates_of(config, GRADS)
    rms = [np.sqrt(np.mean(u**2)) for u in updates]
    assert all(r <= 0.1 * 1.01 for r in rms)
    assert (np.sign(updates[0]) == -np.sign(GRADS[0])).all()
    assert not updates_of(OptimConfig(kind="adafactor"), GRADS[:1])[0].any(), "the first learning rate is 0"
    decayed = OptimConfig(kind="adafactor", peak_lr=0.1, warmup=0.0, weight_decay=0.5)
    ones = {"w": jnp.ones((128, 256))}
    np.testing.assert_allclose(one_update(decayed, ones, jax.tree.map(jnp.zeros_like, ones))["w"], 0.95, rtol=1e-6)


def plain_adafactor():
    """Of optax's own parts, which take a leaf for one weight."""

    def decay(done, b2):
        return b2 * jnp.expm1(done * jnp.log(b2)) / jnp.expm1((done + 1) * jnp.log(b2))

    factored = optax.scale_by_factored_rms(decay_rate=0.999, decay_rate_fn=decay, epsilon=1e-16)
    return optax.chain(factored, optax.clip_by_block_rms(1.0), optax.ema(0.9))


def test_adafactor_knows_each_layer_by_itself():
    """A stack of layers moves as its layers do under optax one by one: factors, and the limit of an update, which some exceed. No
    weight is as large in a direction as there are layers."""
    config = OptimConfig(kind="adafactor", peak_lr=0.1, warmup=0.0, decay="constant", clip_norm=1e9)
    layers, shapes = 160, {"wide": (128, 130), "narrow": (2, 150), "vector": (5,)}
    grads = []
    for k in range(3):
        random = np.random.default_rng(k)
        grads.append({name: random.normal(size=(layers, *shape)).astype(np.float32) for name, shape in shapes.items()})
        for grad in grads[-1].values():
            grad[1] *= 100.0**k

    def moved(transform, grads):
        params = jax.tree.map(jnp.ones_like, grads[0])
        state, updates = transform.init(params), []
        for grad in grads:
            update, state = jax.jit(transform.update)(grad, state, params)
            updates.append(update)
        return updates, state

    together, state = moved(make_optimizer(config, 10).transform, [{"layers": grad} for grad in grads])
    for layer in (0, 1, layers - 1):
        alone, of_one = moved(plain_adafactor(), [jax.tree.map(lambda x: x[layer], grad) for grad in grads])  # noqa: B023
        for name in shapes:
            for ours, theirs in zip(together, alone, strict=True):
                scale = np.abs(theirs[name]).max()
                np.testing.assert_allclose(ours["layers"][name][layer] / scale, theirs[name] / scale, atol=1e-5, err_msg=name)
            for kind in ("v_row", "v_col", "v"):
                ours, theirs = (getattr(factored, kind) for factored in (state[1][0], of_one[0]))
                np.testing.assert_allclose(ours["layers"][name][layer], theirs[name], rtol=1e-5, err_msg=name)


def test_rounding_at_random_is_right_in_the_mean():
    """A third of the way from 1 to the next bfloat16, 2^-7 further, two thirds of the draws are 1. 4e-5: six standard errors."""
    x = jnp.full(400_000, 1 + 2**-7 / 3)
    drawn = round_at_random(x, jax.random.key(1)).astype(jnp.float32)
    assert set(np.unique(drawn)) == {1.0, 1 + 2**-7}
    assert abs(float(drawn.mean()) - float(x[0])) < 4e-5
    exact = jnp.asarray([0.0, 1.0, 1e-20, 3.0]).astype(jnp.bfloat16)
    assert jnp.array_equal(round_at_random(exact.astype(jnp.float32), jax.random.key(2)), exact)


def trajectory(dtype, updates=1000) -> np.ndarray:
    """The second moment of each of 4096 weights, after gradients drawn anew for each update, small after the first 100."""
    transform = make_optimizer(OptimConfig(moments_dtype=dtype, clip_norm=1e9), updates).transform

    def body(state, k):
        grads = {"w": jnp.where(k < 100, 1.0, 0.1) * jax.random.normal(jax.random.key(k), 4096)}
        return transform.update(grads, state, grads)[1], None

    first: Any = transform.init({"w": jnp.ones(4096)})
    state, _ = jax.lax.scan(body, first, jnp.arange(updates))
    return np.asarray(state[1].nu["w"], np.float64)


def test_a_second_moment_in_bfloat16_follows_the_float32_one(monkeypatch):
    """In the mean over the weights to 0.5 %, each to some per cent. Rounded to the nearest it never falls."""
    exact, drawn = trajectory("float32"), trajectory("bfloat16")
    assert abs(np.mean(drawn / exact) - 1) < 0.005
    assert np.std(drawn / exact) < 0.07
    monkeypatch.setattr(optim, "round_at_random", lambda x, key: x.astype(jnp.bfloat16))
    assert np.mean(trajectory("bfloat16") / exact) > 1.5


def test_what_is_drawn_depends_on_the_update_and_the_weight_alone():
    """Not on the mesh, nor on whether the state has been stored; another update or another weight draws something else."""
    transform = make_optimizer(OptimConfig(moments_dtype="bfloat16"), 10).transform
    grad = jax.random.normal(jax.random.key(3), (64, 64))
    grads = {"a": grad, "b": grad}

    def after(grads, updates, stored):
        state: Any = transform.init(grads)
        for _ in range(updates):
            _, state = jax.jit(transform.update)(grads, state, grads)
            state = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state) if stored else state
        return state[1].nu

    one = after(grads, 2, stored=False)
    cut = jax.device_put(grads, NamedSharding(tiny.mesh(2, 2, 2), PartitionSpec("fsdp", "tensor")))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, after(cut, 2, stored=False)))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, after(grads, 2, stored=True)))
    assert not jnp.array_equal(one["a"], one["b"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "sgd"}, "optim.kind='sgd' .*'adamw', 'adafactor'"),
        ({"decay": "step"}, "optim.decay='step' .*'cosine', 'linear', 'constant'"),
        ({"moments_dtype": "fp8"}, "optim.moments_dtype='fp8'"),
        ({"warmup": 1.0}, "optim.warmup=1.0 must be a share"),
        ({"warmup": -0.1}, "optim.warmup=-0.1"),
        ({"peak_lr": 0.0}, "optim.peak_lr=0.0 .* above 0"),
        ({"peak_lr": math.nan}, "optim.peak_lr=nan"),
        ({"peak_lr": math.inf}, "optim.peak_lr=inf"),
        ({"clip_norm": -1.0}, "optim.clip_norm=-1.0"),
    ],
)
def test_settings_that_mean_nothing(settings, words):
    with pytest.raises(InputError, match=words):
        OptimConfig(**settings)
