import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mpo_jax.scoring import token_logprob
from mpo_jax.scoring.token_divergence import token_divergences

S, A, D, V = 4, 6, 16, 96


def arrays(seed: int = 0) -> list[np.ndarray]:
    """States and unembedding of the policy, then of the reference, and a cotangent."""
    random = np.random.default_rng(seed)
    return [random.normal(size=s).astype(np.float32) for s in ((S, A, D), (V, D), (S, A, D), (V, D), (S, A))]


def by_hand(h, w, ref_h, ref_w, softcap, of_policy):
    cap = lambda x: x if softcap is None else softcap * jnp.tanh(x / softcap)  # noqa: E731
    ours, theirs = (jax.nn.log_softmax(cap(jnp.einsum("sad,vd->sav", *x))) for x in ((h, w), (ref_h, ref_w)))
    p, q = (ours, theirs) if of_policy else (theirs, ours)
    return jnp.sum(jnp.exp(p) * (p - q), axis=-1)


def value_and_grad(f, softcap, of_policy):
    h, w, ref_h, ref_w, grad_SA = arrays()
    total = lambda h, w: (f(h, w, ref_h, ref_w, softcap, of_policy) * grad_SA).sum()  # noqa: E731
    return f(h, w, ref_h, ref_w, softcap, of_policy), *jax.jit(jax.grad(total, (0, 1)))(h, w)


@pytest.mark.parametrize("of_policy", [True, False], ids=["of policy", "of reference"])
@pytest.mark.parametrize(("softcap", "block"), [(None, 512), (2.0, 40)], ids=["one block", "capped, three blocks"])
def test_blockwise_is_the_formula_in_value_and_gradient(of_policy, softcap, block, monkeypatch):
    monkeypatch.setattr(token_logprob, "BLOCK", 1)
    monkeypatch.setattr(token_logprob, "SMALLEST_BLOCK", block)
    pairs = zip(*(value_and_grad(f, softcap, of_policy) for f in (token_divergences, by_hand)), strict=True)
    for ours, formula in pairs:
        np.testing.assert_allclose(ours, formula, rtol=1e-4, atol=1e-5 * np.abs(formula).max())


def test_a_model_does_not_differ_from_itself():
    h, w, *_ = arrays()
    for of_policy in (True, False):
        f = lambda h, w: token_divergences(h, w, arrays()[0], arrays()[1], None, of_policy).sum()  # noqa: B023, E731
        value, grads = jax.value_and_grad(f, (0, 1))(h, w)
        np.testing.assert_allclose(value, 0, atol=1e-4)
        assert max(float(jnp.abs(g).max()) for g in grads) < 1e-4


def test_split_over_a_mesh_equals_one_device(monkeypatch):
    """The vocabulary over `tensor`, the width over `fsdp`, the rows over both batch axes, several blocks on each device."""
    monkeypatch.setattr(token_logprob, "BLOCK", 1)
    monkeypatch.setattr(token_logprob, "SMALLEST_BLOCK", 10)
    h, w, ref_h, ref_w, grad_SA = arrays()

    def run():
        total = lambda h, w: (token_divergences(h, w, ref_h, ref_w, 2.0, True) * grad_SA).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(total, (0, 1)))(h, w)

    alone = run()
    with jax.set_mesh(tiny.mesh(2, 2, 2)):
        split = run()
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(split), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_no_array_of_tokens_times_vocabulary_in_either_pass(monkeypatch):
    monkeypatch.setattr(token_logprob, "BLOCK", 1)
    monkeypatch.setattr(token_logprob, "SMALLEST_BLOCK", 8)
    h, w, ref_h, ref_w, _ = arrays()
    program = jax.make_jaxpr(jax.grad(lambda h: token_divergences(h, w, ref_h, ref_w, None, True).sum()))(h)
    sizes = {v.aval.shape for jaxpr in tiny.inner_jaxprs(program.jaxpr) for eqn in jaxpr.eqns for v in eqn.outvars}
    assert (8, S * A) in sizes, "a block"
    assert not any(V in shape and S * A in shape for shape in sizes)
