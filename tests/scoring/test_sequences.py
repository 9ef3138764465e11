import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mpo_jax.scoring import sequences, token_logprob
from mpo_jax.types import Reads, Want

BOTH = Want.LOGP | Want.HIDDEN


def score(model, params, packed, reads, rows):
    return jax.jit(sequences.score, static_argnums=(0, 3, 4))(model, params, packed, reads, rows)


def naive(model, params, packed, slots):
    """Full logits of the whole batch, then a gather and a sum for each slot."""
    hidden_STD = model.hidden(params, packed)
    logits_STV = jnp.einsum("std,vd->stv", hidden_STD, model.unembedding(params)) * (model.config.logit_scale or 1)
    if model.config.final_softcap:
        logits_STV = model.config.final_softcap * jnp.tanh(logits_STV / model.config.final_softcap)
    logp_STV = jax.nn.log_softmax(logits_STV)
    rows_SA = jnp.arange(packed.answer_at_SA.shape[0])[:, None]
    logp_SA = logp_STV[rows_SA, packed.answer_at_SA, packed.answer_label_SA]
    logp = lambda b: jnp.sum(jnp.where(packed.answer_slot_SA == b, logp_SA, 0))  # noqa: E731
    weight_ST = lambda b: jnp.where(packed.pool_slot_ST == b, packed.pool_weight_ST, 0)  # noqa: E731
    pooled = lambda b: jnp.einsum("std,st->d", hidden_STD, weight_ST(b))  # noqa: E731
    return jax.vmap(logp)(jnp.arange(slots)), jax.vmap(pooled)(jnp.arange(slots))


@pytest.mark.parametrize(
    ("changes", "block"),
    [({}, 512), ({"tied": True, "final_softcap": 3.0}, 40), ({"logit_scale": 0.3}, 512)],
    ids=["untied, one block", "tied and capped, three blocks, the last one overlapping", "scaled, though not what is pooled"],
)
def test_blockwise_equals_full_logits_in_value_and_gradient(changes, block, monkeypatch):
    monkeypatch.setattr(token_logprob, "BLOCK", 1)
    monkeypatch.setattr(token_logprob, "SMALLEST_BLOCK", block)
    model = tiny.model(**changes)
    params, _ = tiny.two_params(model)
    packed = tiny.packed(0, 4, 24)

    def blockwise(params):
        scores = sequences.score(model, params, packed, Reads(source=BOTH, target=BOTH), 4)
        answers = [answer for pair in (scores.source, scores.target) for answer in (pair.chosen, pair.rejected)]
        return jnp.concatenate([x.logp_B for x in answers]), jnp.concatenate([x.hidden_BD for x in answers])

    full = lambda params: naive(model, params, packed, 16)  # noqa: E731
    weigh = lambda f: lambda p: (jnp.cos(jnp.arange(16.0)) * f(p)[0]).sum() + (f(p)[1] ** 2).sum()  # noqa: E731
    both = [jax.jit(jax.value_and_grad(lambda p, f=f: (weigh(f)(p), f(p)), has_aux=True))(params) for f in (blockwise, full)]
    (((_, values), grads), ((_, full_values), full_grads)) = both
    for a, b in zip(values, full_values, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    worst = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), grads, full_grads)
    assert max(jax.tree.leaves(worst)) < 1e-5


def test_what_is_not_read_is_none_and_not_computed():
    model = tiny.model()
    params, _ = tiny.two_params(model)
    packed = tiny.packed(0, 2, 24)
    scores = score(model, params, packed, Reads(source=Want.HIDDEN), 2)
    assert scores.target is None
    assert scores.source.chosen.logp_B is None
    # The unembedding has the vocabulary's size and is never multiplied with.
    program = jax.make_jaxpr(lambda p: sequences.score(model, p, packed, Reads(source=Want.HIDDEN), 2))(params)
    products = [eqn for eqn in program.eqns if eqn.primitive.name == "dot_general"]
    assert products, "the pooling is a product"
    assert not any(tiny.VOCAB in v.aval.shape for eqn in products for v in eqn.invars)


def test_each_side_has_what_it_asked_for_and_no_more():
    model = tiny.model()
    params, _ = tiny.two_params(model)
    packed = tiny.packed(0, 2, 24)
    both = score(model, params, packed, Reads(source=BOTH, target=BOTH), 2)
    some = score(model, params, packed, Reads(source=Want.HIDDEN, target=Want.LOGP), 2)
    for answer in ("chosen", "rejected"):
        source, target = getattr(some.source, answer), getattr(some.target, answer)
        assert source.logp_B is source.count_B is target.hidden_BD is None
        np.testing.assert_array_equal(source.hidden_BD, getattr(both.source, answer).hidden_BD)
        np.testing.assert_array_equal(target.logp_B, getattr(both.target, answer).logp_B)


def test_rows_of_filling_change_nothing():
    model = tiny.model()
    params, _ = tiny.two_params(model)
    reads = Reads(target=BOTH)
    plain, filled = (score(model, params, tiny.packed(1, 3, 24, (1,), filling=n), reads, 3) for n in (0, 2))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(filled), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_scores_are_float32_under_bfloat16_parameters():
    model = tiny.model()
    params, _ = tiny.two_params(model, jnp.bfloat16)
    scores = score(model, params, tiny.packed(0, 2, 24), Reads(source=BOTH, target=BOTH), 2)
    assert {x.dtype for x in jax.tree.leaves(scores)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 2, 2)], ids=str)
def test_split_over_a_mesh_equals_one_device_in_value_and_gradient(shape, monkeypatch):
    """The vocabulary over `tensor`, the width over `fsdp`, the rows over both batch axes, several blocks on each device."""
    monkeypatch.setattr(token_logprob, "BLOCK", 1)
    monkeypatch.setattr(token_logprob, "SMALLEST_BLOCK", 10)
    random = np.random.default_rng(0)
    h_SAD, W_VD, grad_SA = (random.normal(size=s).astype(np.float32) for s in ((4, 6, 16), (96, 16), (4, 6)))
    label_SA = random.integers(0, 96, (4, 6)).astype(np.int32)

    def run():
        return jax.jit(jax.value_and_grad(lambda h, w: (token_logprob.token_logps(h, w, label_SA, 2.0) * grad_SA).sum(), (0, 1)))(
            h_SAD, W_VD
        )

    alone = run()
    with jax.set_mesh(tiny.mesh(*shape)):
        split = run()
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(split), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [None, (1, 1, 8), (1, 8, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_kept_logits_change_no_number(shape, softcap, monkeypatch):
    """Several blocks, the last one overlapping; the vocabulary over `tensor`, width and tokens over `fsdp`."""
    monkeypatch.setattr(token_logprob, "BLOCK", 1)
    monkeypatch.setattr(token_logprob, "SMALLEST_BLOCK", 10)
    random = np.random.default_rng(0)
    h_SAD, W_VD, grad_SA = (random.normal(size=s).astype(np.float32) for s in ((8, 6, 16), (96, 16), (8, 6)))
    label_SA = random.integers(0, 96, (8, 6)).astype(np.int32)

    def run(keep):
        def total(h, w):
            logp_SA = token_logprob.token_logps(h, w, label_SA, softcap, keep)
            return (logp_SA * grad_SA).sum(), logp_SA

        return jax.jit(jax.grad(total, (0, 1), has_aux=True))(h_SAD, W_VD)

    with jax.set_mesh(tiny.mesh(*shape)) if shape else contextlib.nullcontext():
        (grads, logp_SA), (kept_grads, kept_logp_SA) = run(False), run(True)
    np.testing.assert_array_equal(logp_SA, kept_logp_SA)
    for a, b in zip(grads, kept_grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)  # the compiler may fuse the same operations in another order


def test_logits_are_kept_in_place_of_a_product(monkeypatch):
    monkeypatch.setattr(token_logprob, "BLOCK", 1)
    monkeypatch.setattr(token_logprob, "SMALLEST_BLOCK", 10)
    h_SAD, W_VD, label_SA = jnp.zeros((2, 6, 16)), jnp.zeros((96, 16)), jnp.zeros((2, 6), jnp.int32)

    def program(keep, f=jax.grad):
        total = lambda h, w: token_logprob.token_logps(h, w, label_SA, None, keep).sum()  # noqa: E731
        eqns = [eqn for jaxpr in tiny.inner_jaxprs(jax.make_jaxpr(f(total))(h_SAD, W_VD).jaxpr) for eqn in jaxpr.eqns]
        kept = {v.aval.size * 4 for eqn in eqns for v in eqn.outvars if v.aval.shape[1:] == (10, 12)}
        return sum(eqn.primitive.name == "dot_general" for eqn in eqns), kept

    assert program(False) == (4, set())
    assert program(True) == (3, {token_logprob.kept_logits(12, 96)})
    assert program(True, f=lambda total: total) == (1, set()), "nothing is kept where nothing is differentiated"


def test_no_array_of_tokens_times_vocabulary_in_either_pass(monkeypatch):
    monkeypatch.setattr(token_logprob, "BLOCK", 1)
    monkeypatch.setattr(token_logprob, "SMALLEST_BLOCK", 8)
    h_SAD, W_VD, label_SA = jnp.zeros((2, 6, 16)), jnp.zeros((96, 16)), jnp.zeros((2, 6), jnp.int32)
    program = jax.make_jaxpr(jax.grad(lambda h: token_logprob.token_logps(h, W_VD, label_SA, None).sum()))(h_SAD)
    sizes = {v.aval.shape for jaxpr in tiny.inner_jaxprs(program.jaxpr) for eqn in jaxpr.eqns for v in eqn.outvars}
    assert (8, 12) in sizes, "a block"
    assert not any(96 in shape and 12 in shape for shape in sizes)


@pytest.mark.parametrize(
    ("shape", "expected"), [((1, 1, 1), set()), ((1, 1, 8), {"tensor"}), ((8, 1, 1), {"data"}), ((1, 8, 1), {"fsdp"})], ids=str
)
def test_collectives_run_over_the_axes_that_cut_something_alone(shape, expected):
    """One over an axis of size 1 would cost a copy of the whole unembedding."""
    h_SAD, W_VD, label_SA = jnp.zeros((8, 6, 16)), jnp.zeros((96, 16)), jnp.zeros((8, 6), jnp.int32)

    def total(h, w):
        return token_logprob.token_logps(h, w, label_SA, None).sum()

    with jax.set_mesh(tiny.mesh(*shape)):
        program = jax.make_jaxpr(jax.grad(total, (0, 1)))(h_SAD, W_VD)
    axes = {
        axis
        for jaxpr in tiny.inner_jaxprs(program.jaxpr)
        for eqn in jaxpr.eqns
        for name in ("axes", "axis_name")
        if isinstance(eqn.params.get(name), tuple | str)
        for axis in np.ravel(eqn.params[name])
        if isinstance(axis, str)
    }
    assert axes == expected


@pytest.mark.parametrize(("softcap", "scale"), [(None, None), (1.5, 2.0)])
def test_divergences_are_those_of_the_models_scaled_and_capped_logits(softcap, scale):
    """KL(policy || reference) summed over each dominant answer, by hand."""
    model = tiny.model(final_softcap=softcap, logit_scale=scale)
    params, ref_params = tiny.two_params(model)
    packed = tiny.packed(0, 2, 24, (0,))
    found = sequences.divergences(model, params, ref_params, packed, Reads(source=Want.KL_OF_POLICY), 2)["source"]

    def log_probabilities(params):
        logits = np.einsum("std,vd->stv", model.hidden(params, packed), model.unembedding(params)) * (scale or 1)
        return jax.nn.log_softmax(logits if softcap is None else softcap * np.tanh(logits / softcap))

    ours, theirs = log_probabilities(params), log_probabilities(ref_params)
    kl_ST = np.sum(np.exp(ours) * (ours - theirs), axis=-1)
    for answer, scores in enumerate(found):
        for row in range(2):
            mine = packed.answer_slot_SA == 2 * answer + row
            at = np.nonzero(mine)[0][0], packed.answer_at_SA[mine]
            np.testing.assert_allclose(scores.kl_B[row], kl_ST[at].sum(), rtol=1e-4)
