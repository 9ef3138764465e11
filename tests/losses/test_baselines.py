"""Every baseline is its equation, with the signs of its gradient, and refuses what it cannot be."""

import dataclasses

import jax
import numpy as np
import pytest
from answers import COUNTS, POLICY, REFERENCE, loss_B, pair, rows_of, scores

from mpo_jax.errors import InputError
from mpo_jax.losses import Cpo, Dpo, Ipo, Kto, LengthRegularizedDpo, Orpo, RobustDpo, Sft, Simpo
from mpo_jax.losses.orpo import log_odds
from mpo_jax.types import Reads, Scores, Want

METHODS = [Sft(), Dpo(), Ipo(), RobustDpo(), Cpo(), Kto(), Orpo(), LengthRegularizedDpo(), Simpo()]
COMPARING = [Dpo(), RobustDpo(), Cpo(), Kto(), Orpo(), LengthRegularizedDpo(), Simpo()]
name = lambda method: type(method).__name__  # noqa: E731


def lsig(x):
    return -np.log1p(np.exp(-np.asarray(x, np.float64)))


def by_hand() -> list:
    """The table of equations, in numpy and float64."""
    (pw, pl), (rw, rl), (nw, nl) = (x.astype(np.float64) for x in (POLICY, REFERENCE, COUNTS))
    aw, al, z = pw / nw, pl / nl, (pw - rw) - (pl - rl)
    z_mean = (pw - rw) / nw - (pl - rl) / nl
    sig = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    z0 = 0.1 * max(0.0, np.concatenate([pw - rw, pl - rl]).mean())
    log1mexp = lambda a: np.log(-np.expm1(a))  # noqa: E731
    odds = (aw - al) - (log1mexp(aw) - log1mexp(al))
    return [
        (Sft(), -aw),
        (Sft(reduction="token_mean"), -pw / nw.mean()),
        (Sft(reduction="sum"), -pw),
        (Dpo(beta=0.3), -lsig(0.3 * z)),
        (Ipo(tau=0.5), (z_mean - 1) ** 2),
        (Ipo(tau=0.5, length_normalize=False), (z - 1) ** 2),
        (RobustDpo(beta=0.3, epsilon=0.2), (-0.8 * lsig(0.3 * z) + 0.2 * lsig(-0.3 * z)) / 0.6),
        (Cpo(lam=0.5), -lsig(0.1 * (pw - pl)) - 0.5 * pw / nw.mean()),
        (Cpo(nll_reduction="sum"), -lsig(0.1 * (pw - pl)) - pw),
        (Kto(chosen_weight=2.0), 2 * (1 - sig(0.1 * (pw - rw) - z0)) + 1 - sig(z0 - 0.1 * (pl - rl))),
        (Orpo(lam=0.5), -aw - 0.5 * lsig(odds)),
        (LengthRegularizedDpo(), -lsig(0.1 * z + 0.05 * (nw - nl))),
        (Simpo(beta=2.5, gamma=1.2), -lsig(2.5 * (aw - al) - 1.2)),
    ]


@pytest.mark.parametrize(("method", "expected"), by_hand(), ids=str)
def test_equals_its_equation(method, expected):
    np.testing.assert_allclose(loss_B(method), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_a_side_is_read_and_no_other(method):
    """The dominant side's pairs give what the target side's did, and a method without reference reads none."""
    on_source = dataclasses.replace(method, side="source")
    assert (on_source.policy_reads.source, on_source.policy_reads.target) == (Want.LOGP, Want.NOTHING)
    if isinstance(method, Sft | Cpo | Orpo | Simpo):
        assert method.reference_reads == Reads()
    else:
        assert method.reference_reads == method.policy_reads
    rows = rows_of(on_source, scores(POLICY, side="source"), scores(REFERENCE, mismatch=REFERENCE, side="source"))
    np.testing.assert_array_equal(rows.loss_B, loss_B(method))
    with pytest.raises(InputError, match=r"loss\.side='both' is not known"):
        dataclasses.replace(method, side="both")


def test_only_kto_reads_mismatched_pairs():
    assert [name(method) for method in METHODS if method.policy_reads.mismatch] == ["Kto"]


@pytest.mark.parametrize("method", COMPARING, ids=name)
def test_the_chosen_answer_rises_and_the_rejected_one_falls(method):
    grad_2B = jax.grad(lambda logp: rows_of(method, scores(logp), scores(REFERENCE, mismatch=REFERENCE)).loss_B.sum())(POLICY)
    assert (grad_2B[0] < 0).all()
    assert (grad_2B[1] > 0).all()


def test_at_the_reference_dpo_is_log_two_and_kto_half_of_its_weights():
    np.testing.assert_allclose(loss_B(Dpo(), REFERENCE), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(loss_B(RobustDpo(), REFERENCE), np.log(2), rtol=1e-6)
    same = scores(REFERENCE, mismatch=REFERENCE)
    np.testing.assert_allclose(rows_of(Kto(chosen_weight=1.0, rejected_weight=3.0), same, same).loss_B, 2.0, rtol=1e-6)
    np.testing.assert_allclose(loss_B(Ipo(tau=0.1), REFERENCE), 25.0, rtol=1e-6)


def test_robust_dpo_is_dpo_without_flips_and_dpo_on_average_over_flips():
    np.testing.assert_allclose(loss_B(RobustDpo(epsilon=0.0)), loss_B(Dpo()), rtol=1e-6)
    share = 0.3
    straight = loss_B(RobustDpo(epsilon=share))
    flipped = loss_B(RobustDpo(epsilon=share), POLICY[::-1], REFERENCE[::-1], COUNTS[::-1])
    np.testing.assert_allclose((1 - share) * straight + share * flipped, loss_B(Dpo()), rtol=1e-5)


def test_orpo_is_finite_from_certainty_to_impossibility():
    a = -np.logspace(-7, 2, 200, dtype=np.float32)
    clamped = np.minimum(a, -1e-6).astype(np.float64)
    exact = clamped - np.log(-np.expm1(clamped))
    np.testing.assert_allclose(log_odds(a), exact, rtol=1e-5, atol=2e-6)
    assert np.isfinite(jax.vmap(jax.grad(log_odds))(a)).all()
    ones = np.ones((2, 200), np.float32)
    for logp in (np.stack([a, a[::-1]]), np.stack([a, a])):
        value, grad_2B = jax.value_and_grad(lambda x: rows_of(Orpo(), scores(x, ones, x), Scores()).loss_B.sum())(logp)
        assert np.isfinite(value)
        assert np.isfinite(grad_2B).all()


def test_the_losses_are_finite_far_from_the_reference():
    far = 1e4 * np.asarray([[-1, 0, -1], [0, -1, -1]], np.float32)
    for method in COMPARING:
        assert np.isfinite(loss_B(method, far)).all(), method


def test_ktos_reference_point_has_no_gradient_and_is_of_the_whole_batch():
    """Rows of filling have no tokens and do not count; other microbatches' rows do."""
    policy = Scores(target=pair(POLICY), mismatch=pair(np.tile(POLICY + 4, 2), np.concatenate([COUNTS, 0 * COUNTS], 1)))
    reference = Scores(target=pair(REFERENCE), mismatch=pair(np.tile(POLICY, 2), np.concatenate([COUNTS, 0 * COUNTS], 1)))
    np.testing.assert_allclose(rows_of(Kto(), policy, reference).metrics_B["z0"], 0.4, rtol=1e-5)
    below = dataclasses.replace(reference, mismatch=pair(np.tile(POLICY + 9, 2), np.tile(COUNTS, 2)))
    np.testing.assert_array_equal(rows_of(Kto(), policy, below).metrics_B["z0"], 0)

    def total(mismatch):
        return rows_of(Kto(), dataclasses.replace(policy, mismatch=pair(mismatch)), below).loss_B.sum()

    below = dataclasses.replace(below, mismatch=pair(POLICY))
    assert not jax.grad(total)(POLICY + 4).any()


def test_metrics_have_trls_names_and_the_methods_own_rewards():
    for method in METHODS:
        metrics = rows_of(method, scores(POLICY), scores(REFERENCE, mismatch=REFERENCE)).metrics_B
        assert {f"rewards/{x}" for x in ("chosen", "rejected", "accuracies", "margins")} <= metrics.keys()
        np.testing.assert_allclose(metrics["rewards/margins"], metrics["rewards/chosen"] - metrics["rewards/rejected"])
    metrics = rows_of(Dpo(beta=0.2), scores(POLICY), scores(REFERENCE)).metrics_B
    np.testing.assert_allclose(metrics["rewards/chosen"], 0.2 * (POLICY - REFERENCE)[0], rtol=1e-5)


ONE_ROW = scores(POLICY[:, :1], COUNTS[:, :1], POLICY[:, :1])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: RobustDpo(epsilon=0.5), r"loss\.epsilon=0\.5"),
        (lambda: RobustDpo(epsilon=-0.1), r"loss\.epsilon=-0\.1"),
        (lambda: Dpo(beta=0.0), r"loss\.beta=0\.0"),
        (lambda: Ipo(tau=0.0), r"loss\.tau=0\.0"),
        (lambda: Simpo(beta=-1.0), r"loss\.beta=-1\.0"),
        (lambda: Cpo(lam=-1.0), r"loss\.lam=-1\.0"),
        (lambda: Orpo(lam=-1.0), r"loss\.lam=-1\.0"),
        (lambda: Cpo(nll_reduction="mean"), "'token_mean'"),
        (lambda: Sft(reduction="mean"), "'row_mean'"),
        (lambda: Kto(rejected_weight=-1.0), r"loss\.rejected_weight=-1\.0"),
        (lambda: rows_of(Kto(), ONE_ROW, ONE_ROW), "batch_size of at least 2"),
    ],
)
def test_bad_settings_are_refused_with_a_sentence(build, words):
    with pytest.raises(InputError, match=words):
        build()
