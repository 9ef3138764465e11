import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mpo_jax import scoring
from mpo_jax.types import Reads, Want

BOTH = Want.LOGP | Want.HIDDEN


def score(model, params, batch, reads):
    return jax.jit(scoring.score, static_argnums=(0, 3))(model, params, batch, reads)


def naive(model, params, packed, slots):
    """Full logits of the whole batch, then a gather and a loop over slots."""
    hidden_STD = model.hidden(params, packed)
    logits_STV = jnp.einsum("std,vd->stv", hidden_STD, model.unembedding(params))
    if model.config.final_softcap:
        logits_STV = model.config.final_softcap * jnp.tanh(logits_STV / model.config.final_softcap)
    logp_STV = jax.nn.log_softmax(logits_STV)
    rows_SA = jnp.arange(packed.answer_at_SA.shape[0])[:, None]
    logp_SA = logp_STV[rows_SA, packed.answer_at_SA, packed.answer_label_SA]
    logp = jnp.stack([jnp.sum(jnp.where(packed.answer_slot_SA == b, logp_SA, 0)) for b in range(slots)])
    weight_ST = lambda b: jnp.where(packed.pool_slot_ST == b, packed.pool_weight_ST, 0)  # noqa: E731
    pooled = jnp.stack([jnp.einsum("std,st->d", hidden_STD, weight_ST(b)) for b in range(slots)])
    return logp, pooled


@pytest.mark.parametrize("changes", [{}, {"tied": True, "final_softcap": 3.0}], ids=["untied", "tied and capped"])
@pytest.mark.parametrize("block", [2**26, 3 * 8 * tiny.VOCAB], ids=["one block", "blocks of 3 positions"])
def test_blockwise_equals_full_logits_in_value_and_gradient(changes, block, monkeypatch):
    monkeypatch.setattr(scoring, "LOGIT_BLOCK", block)
    model = tiny.model(**changes)
    params, _ = tiny.two_params(model)
    batch = tiny.batch(4)

    def blockwise(params):
        pair = scoring.score(model, params, batch, Reads(target=BOTH)).target
        join = lambda a, b: jnp.stack([a, b], 1).reshape(8, *a.shape[1:])  # noqa: E731
        return join(pair.chosen.logp_B, pair.rejected.logp_B), join(pair.chosen.hidden_BD, pair.rejected.hidden_BD)

    full = lambda params: naive(model, params, batch.target, 8)  # noqa: E731
    weigh = lambda f: lambda p: (jnp.cos(jnp.arange(8.0)) * f(p)[0]).sum() + (f(p)[1] ** 2).sum()  # noqa: E731
    both = [jax.jit(jax.value_and_grad(lambda p, f=f: (weigh(f)(p), f(p)), has_aux=True))(params) for f in (blockwise, full)]
    (((_, values), grads), ((_, full_values), full_grads)) = both
    for a, b in zip(values, full_values, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    worst = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), grads, full_grads)
    assert max(jax.tree.leaves(worst)) < 1e-5


def test_what_is_not_read_is_none_and_not_computed():
    model = tiny.model()
    params, _ = tiny.two_params(model)
    batch = tiny.batch(2)
    scores = score(model, params, batch, Reads(source=Want.HIDDEN))
    assert scores.target is None
    assert scores.source.chosen.logp_B is None
    # The unembedding has the vocabulary's size and is never multiplied with.
    program = jax.make_jaxpr(lambda p: scoring.score(model, p, batch, Reads(source=Want.HIDDEN)))(params)
    products = [eqn for eqn in program.eqns if eqn.primitive.name == "dot_general"]
    assert products, "the pooling is a product"
    assert not any(tiny.VOCAB in v.aval.shape for eqn in products for v in eqn.invars)


def test_one_forward_for_sides_of_equal_length_equals_two():
    model = tiny.model()
    params, _ = tiny.two_params(model)
    equal, longer = tiny.batch(3, length=24), tiny.batch(3, length=24)
    longer = dataclasses.replace(longer, target=jax.tree.map(_widened, longer.target))
    reads = Reads(source=BOTH, target=BOTH)
    for a, b in zip(*(jax.tree.leaves(score(model, params, x, reads)) for x in (equal, longer)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def _widened(x_ST):
    return np.pad(x_ST, ((0, 0), (0, 8)), constant_values=-1 if x_ST.min() < 0 else 0)


def test_rows_of_filling_change_nothing():
    model = tiny.model()
    params, _ = tiny.two_params(model)
    plain, filled = tiny.packed(1, 3, 24), tiny.packed(1, 3, 24, filling=2)
    batch = tiny.batch(3)
    reads = Reads(target=BOTH)
    for a, b in zip(
        *(jax.tree.leaves(score(model, params, dataclasses.replace(batch, target=t), reads)) for t in (plain, filled)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_scores_are_float32_under_bfloat16_parameters():
    model = tiny.model()
    params, _ = tiny.two_params(model, jnp.bfloat16)
    scores = score(model, params, tiny.batch(2), Reads(source=BOTH, target=BOTH))
    assert {x.dtype for x in jax.tree.leaves(scores)} == {jnp.dtype("float32")}


def test_gradient_of_the_unembedding_adds_up_in_float32(monkeypatch):
    """Many blocks of bfloat16 gradients lose the small ones when they are summed in bfloat16."""
    monkeypatch.setattr(scoring, "LOGIT_BLOCK", 8 * tiny.VOCAB)
    model = tiny.model()
    params, _ = tiny.two_params(model, jnp.bfloat16)
    batch = tiny.batch(4)

    def total(W_VD):
        pair = scoring.score(model, params | {"unembedding": W_VD}, batch, Reads(target=Want.LOGP)).target
        return pair.chosen.logp_B.sum()

    many = jax.jit(jax.grad(total))(params["unembedding"]).astype(jnp.float32)
    monkeypatch.setattr(scoring, "LOGIT_BLOCK", 2**26)
    one = jax.jit(jax.grad(total))(params["unembedding"]).astype(jnp.float32)
    assert float(jnp.abs(many - one).max() / jnp.abs(one).max()) < 5e-3
