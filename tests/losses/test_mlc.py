"""MLC is its equation, and its gradient is there where singular values coincide or vanish."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from answers import rows_of
from states import gradient_by_differences, prompts

from mpo_jax.errors import InputError
from mpo_jax.losses import Cpo, Mlc, Sum
from mpo_jax.losses.mlc import singular_values
from mpo_jax.types import Reads, Scores, Want

G, K, D = 2, 4, 9  # prompts, languages, width
TAU = 0.2
random = np.random.default_rng(0)
STATES = random.normal(size=(G, K, D)) + 2 * random.normal(size=(G, 1, D))


def loss_G(x_GKD, weight=None, method=Mlc()):  # noqa: B008
    """The loss of each prompt, of states whose first language is the dominant one."""
    group = x_GKD.shape[1] - 1
    source, target = jnp.repeat(x_GKD[:, 0], group, axis=0), x_GKD[:, 1:].reshape(-1, x_GKD.shape[-1])
    return rows_of(method, prompts(source, target, weight=weight, group=group), Scores()).loss_B[::group]


def by_hand(x_KD, tau=TAU, largest=None):
    """In float64, by a singular value decomposition."""
    sigma = np.linalg.svd(x_KD / np.linalg.norm(x_KD, axis=1, keepdims=True), compute_uv=False)
    logits = sigma / (tau * (sigma[0] if largest is None else largest))
    return np.log(np.exp(logits).sum()) - logits[0]


@pytest.mark.parametrize("tau", [TAU, 1.0])
def test_is_its_equation(tau):
    expected = [by_hand(x, tau) for x in STATES]
    np.testing.assert_allclose(loss_G(STATES.astype(np.float32), method=Mlc(temperature=tau)), expected, rtol=1e-5)


def test_its_gradient_is_that_of_the_equation_with_a_constant_divisor():
    largest = [np.linalg.svd(x / np.linalg.norm(x, axis=1, keepdims=True), compute_uv=False)[0] for x in STATES]
    found = jax.grad(lambda x: loss_G(x).sum())(STATES.astype(np.float32))
    for of, x, sigma in zip(found, STATES, largest, strict=True):
        expected = gradient_by_differences(lambda x, sigma=sigma: by_hand(x, TAU, sigma), x)
        np.testing.assert_allclose(of, expected, rtol=0, atol=1e-5 * np.abs(expected).max() + 1e-6)


def test_it_is_least_where_all_languages_have_one_direction_and_greatest_where_they_are_orthogonal():
    one = np.tile(random.normal(size=(1, 1, D)), (1, K, 1)) * np.arange(1, K + 1)[None, :, None]
    np.testing.assert_allclose(loss_G(one.astype(np.float32)), np.log(1 + (K - 1) * np.exp(-1 / TAU)), rtol=1e-4)
    apart = np.eye(D, dtype=np.float32)[None, :K]
    np.testing.assert_allclose(loss_G(apart), np.log(K), rtol=1e-5)
    assert np.log(1 + (K - 1) * np.exp(-1 / TAU)) < loss_G(STATES[:1].astype(np.float32)) < np.log(K)


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-4])
@pytest.mark.parametrize("rank", [1, 2, K])
def test_gradients_of_singular_values_are_never_longer_than_one(rank, noise):
    """Also where values vanish or coincide, exactly or but for a noise whose square is rounded away."""
    base = np.eye(D)[None, [k % rank for k in range(K)]] + noise * random.normal(size=(1, K, D))
    jacobian = jax.jacrev(lambda x: singular_values(x)[0])(base.astype(np.float32))
    lengths = np.sqrt((np.asarray(jacobian) ** 2).sum(axis=(1, 2, 3)))
    assert np.isfinite(lengths).all() and (lengths < 1 + 1e-4).all(), lengths
    expected = np.linalg.svd(base[0], compute_uv=False)
    np.testing.assert_allclose(singular_values(base.astype(np.float32))[0], expected, atol=5e-4 if noise else 2e-6)


def test_descending_makes_the_states_collinear():
    def step(x, _):
        value, slope = jax.value_and_grad(lambda x: loss_G(x).sum())(x)
        return x - 2.0 * slope, value

    _, values = jax.jit(lambda x: jax.lax.scan(step, x, length=300))(STATES.astype(np.float32))
    assert values[-1] < values[0]
    np.testing.assert_allclose(
        values[-1], G * np.log(1 + (K - 1) * np.exp(-1 / TAU)), rtol=0.1
    )  # around it, by the length of a step


def test_a_language_that_a_prompt_lacks_does_not_count():
    """A filling row has zeros for a state; a prompt that is all filling has a finite loss and no gradient worth mentioning."""
    x = STATES.astype(np.float32)
    x[1, -1] = 0
    weight = np.ones((G, K - 1))
    weight[1, -1] = 0
    np.testing.assert_allclose(loss_G(x, weight.ravel())[1], by_hand(STATES[1, :-1]), rtol=1e-5)
    x[1], weight[1] = 0, 0
    losses, slope = jax.value_and_grad(lambda x: (loss_G(x, weight.ravel()) * weight[:, 0]).sum())(x)
    assert np.isfinite(losses) and np.isfinite(slope).all() and not slope[1].any()


def test_what_it_reads_and_says():
    assert Mlc(layer=3).policy_reads == Reads(Want.PROMPT, Want.PROMPT, layer=3, groups=True)
    assert Mlc().reference_reads == Reads()
    both = Sum({"cpo": Cpo(side="source"), "mlc": Mlc()}, weights={"mlc": 0.8})
    assert both.policy_reads == Reads(Want.PROMPT | Want.LOGP, Want.PROMPT, groups=True)
    rows = rows_of(Mlc(), prompts(STATES[:, 0].astype(np.float32), STATES[:, 1].astype(np.float32)), Scores())
    cosine = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in STATES[:, :2]]
    np.testing.assert_allclose(rows.by_language_B["cosine"], cosine, rtol=1e-5)
    np.testing.assert_allclose(rows.metrics_B["consistency"], (1 + np.abs(cosine)) / 2, rtol=1e-5)  # of two unit vectors


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Mlc(temperature=0), "temperature=0 must be above 0"),
        (lambda: Mlc(layer=-1), "layer=-1 must be a number of layers"),
        (lambda: Sum({"a": Mlc(), "b": Mlc(layer=2)}), r"at different layers, 0 and 2"),
    ],
)
def test_what_it_cannot_be(build, words):
    with pytest.raises(InputError, match=words):
        build()
