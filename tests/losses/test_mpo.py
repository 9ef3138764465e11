import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from answers import rows_of

from mpo_jax.errors import InputError
from mpo_jax.losses import Mpo
from mpo_jax.types import Pair, Reads, Scores, SequenceScores, Want

B, D = 3, 5


def sequence(seed: int) -> SequenceScores:
    random = np.random.default_rng(seed)
    return SequenceScores(
        jnp.asarray(-random.uniform(1, 30, B), jnp.float32),
        jnp.asarray(random.integers(1, 20, B), jnp.float32),
        jnp.asarray(random.normal(size=(B, D)), jnp.float32),
    )


def scores(seed: int) -> Scores:
    return Scores(Pair(sequence(seed), sequence(seed + 1)), Pair(sequence(seed + 2), sequence(seed + 3)))


def by_hand(loss: Mpo, policy: Scores, reference: Scores) -> np.ndarray:
    mean = lambda x: np.asarray(x.logp_B) / np.asarray(x.count_B)  # noqa: E731
    gap = mean(policy.target.chosen) - mean(policy.target.rejected)
    goal = mean(reference.source.chosen) - mean(reference.source.rejected)
    reduce = np.mean if loss.retain_reduction == "mean" else np.sum
    drift = [
        reduce((np.asarray(getattr(policy.source, a).hidden_BD) - np.asarray(getattr(reference.source, a).hidden_BD)) ** 2, -1)
        for a in ("chosen", "rejected")
    ]
    return (loss.beta * gap - goal) ** 2 + loss.retain * (drift[0] + drift[1]) / 2


@pytest.mark.parametrize("loss", [Mpo(), Mpo(beta=1.5, retain=0.3, retain_reduction="sum"), Mpo(retain=0.0)])
def test_equals_the_equation(loss: Mpo):
    np.testing.assert_allclose(rows_of(loss, scores(0), scores(10)).loss_B, by_hand(loss, scores(0), scores(10)), rtol=1e-5)


def test_beta_scales_the_policys_gap_only():
    rows = rows_of(Mpo(beta=2.0), scores(0), scores(10))
    np.testing.assert_allclose(
        rows.by_language_B["weight"], 2 * rows.by_language_B["gap"] - rows.metrics_B["gap/goal"], rtol=1e-5
    )
    np.testing.assert_allclose(rows.by_language_B["weight"] ** 2, rows.metrics_B["loss/gap"], rtol=1e-5)


def test_gradient_is_equation_10():
    """dL1/d(gap) = 2 beta (beta gap - goal); through the mean log-probability of the chosen answer it is that over |y|."""
    loss, policy = Mpo(beta=1.5, retain=0.0), scores(0)

    def total(logp_B):
        chosen = SequenceScores(logp_B, policy.target.chosen.count_B)
        return rows_of(loss, Scores(policy.source, Pair(chosen, policy.target.rejected)), scores(10)).loss_B.sum()

    grad_B = jax.grad(total)(policy.target.chosen.logp_B)
    error_B = rows_of(loss, policy, scores(10)).by_language_B["weight"]
    np.testing.assert_allclose(grad_B, 2 * 1.5 * error_B / policy.target.chosen.count_B, rtol=1e-5)


def test_retention_and_its_gradient_are_exactly_zero_where_policy_is_reference():
    def drift(hidden_BD):
        chosen = SequenceScores(hidden_BD=hidden_BD)
        pair = Pair(chosen, chosen)
        reference = jax.lax.stop_gradient(pair)
        return Mpo().retention(pair, reference).sum()

    value, grad_BD = jax.value_and_grad(drift)(jnp.ones((B, D)) / 3)
    assert value == 0
    assert not grad_BD.any()


def test_equal_answers_have_no_gap():
    same = sequence(0)
    assert not Pair(same, same).mean_gap_B.any()


def test_reads_what_it_needs_and_no_more():
    assert Mpo().policy_reads.source == Want.HIDDEN
    assert Mpo().policy_reads.target == Want.LOGP
    assert Mpo().reference_reads.source == Want.LOGP | Want.HIDDEN
    assert Mpo().reference_reads.target == Want.NOTHING
    assert Mpo(retain=0.0).policy_reads.source == Want.NOTHING
    assert Mpo(retain=0.0).reference_reads.source == Want.LOGP
    assert Mpo(retain_pooling="last").policy_reads.pooling == Mpo(retain_pooling="last").reference_reads.pooling == "last"


def test_ablations_are_their_equations():
    policy, reference = scores(0), scores(10)
    gap = lambda pair, per: np.asarray(pair.chosen.logp_B / per(pair.chosen) - pair.rejected.logp_B / per(pair.rejected))  # noqa: E731
    mean, whole = (lambda x: x.count_B), (lambda x: 1.0)
    sums = (2 * gap(policy.target, whole) - gap(reference.source, whole)) ** 2
    np.testing.assert_allclose(rows_of(Mpo(beta=2.0, retain=0.0, rg_normalize=False), policy, reference).loss_B, sums, rtol=1e-5)
    constant = (gap(policy.target, mean) - 1.58) ** 2
    np.testing.assert_allclose(rows_of(Mpo(retain=0.0, gap_target="1.58"), policy, Scores()).loss_B, constant, rtol=1e-4)
    own = (gap(policy.target, mean) - gap(policy.source, mean)) ** 2
    np.testing.assert_allclose(rows_of(Mpo(retain=0.0, gap_target="policy"), policy, Scores()).loss_B, own, rtol=1e-4)


def test_retention_by_divergence_is_its_mean_over_tokens_and_answers():
    loss, policy = Mpo(retain_by="kl_of_reference", retain=0.5), scores(0)
    chosen, rejected = (SequenceScores(kl_B=jnp.full(B, x), count_B=jnp.full(B, 4.0)) for x in (2.0, 6.0))
    rows = rows_of(loss, dataclasses.replace(policy, source=Pair(chosen, rejected)), scores(10))
    np.testing.assert_allclose(rows.metrics_B["loss/retain"], 1.0)
    np.testing.assert_allclose(rows.loss_B, rows.metrics_B["loss/gap"] + 0.5, rtol=1e-6)
    assert loss.policy_reads.source == Want.KL_OF_REFERENCE
    assert loss.reference_reads.source == Want.KL_OF_REFERENCE | Want.LOGP


def test_another_languages_gap_is_the_references_and_retention_stays_on_the_dominant_side():
    loss, policy, reference = Mpo(gap_target="ar"), scores(0), dataclasses.replace(scores(10), parallel=scores(20).source)
    other = Scores(
        source=Pair(
            *(
                dataclasses.replace(x, hidden_BD=y.hidden_BD)
                for x, y in (
                    (scores(20).source.chosen, reference.source.chosen),
                    (scores(20).source.rejected, reference.source.rejected),
                )
            )
        )
    )
    np.testing.assert_array_equal(rows_of(loss, policy, reference).loss_B, rows_of(Mpo(), policy, other).loss_B)
    assert loss.reference_reads == Reads(source=Want.HIDDEN, parallel="ar")
    assert loss.policy_reads == Mpo().policy_reads


def test_the_policys_own_gap_has_a_gradient_on_both_sides_and_the_references_on_one():
    for gap_target, moves in (("policy", True), ("reference", False)):
        loss = Mpo(retain=0.0, gap_target=gap_target)
        grads = jax.grad(lambda policy, loss=loss: rows_of(loss, policy, scores(10)).loss_B.sum())(scores(0))
        assert grads.target.chosen.logp_B.all()
        assert bool(grads.source.chosen.logp_B.any()) == moves


def test_ablations_read_less():
    constant = Mpo(gap_target="0.5")
    assert constant.reference_reads.source == Want.HIDDEN
    assert Mpo(gap_target="0.5", retain=0.0).reference_reads == Reads()
    assert Mpo(gap_target="policy").policy_reads.source == Want.LOGP | Want.HIDDEN
    assert Mpo(gap_target="policy").reference_reads.source == Want.HIDDEN


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"beta": 0.0}, "loss.beta=0.0"),
        ({"retain": -1.0}, "loss.retain=-1.0"),
        ({"retain_pooling": "max"}, "'mean_padded'"),
        ({"retain_reduction": "max"}, "'sum'"),
        ({"retain_by": "kl"}, "'kl_of_policy'"),
        ({"gap_target": "1,58"}, "loss.gap_target='1,58'"),
    ],
)
def test_bad_settings_are_named(settings, word):
    with pytest.raises(InputError, match=word):
        Mpo(**settings)
