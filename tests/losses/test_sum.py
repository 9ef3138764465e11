import jax
import numpy as np
import pytest
from answers import POLICY, REFERENCE, loss_B, rows_of, scores

from mpo_jax.errors import InputError
from mpo_jax.losses import Cpo, Dpo, Kto, Lens, Mpo, Sft, Simpo, Sum
from mpo_jax.losses.base import files_of
from mpo_jax.types import Reads, Want


def test_is_the_weighted_sum_and_so_is_its_gradient():
    both = Sum({"dpo": Dpo(), "nll": Sft()}, weights={"nll": 0.2})
    np.testing.assert_allclose(loss_B(both), loss_B(Dpo()) + 0.2 * loss_B(Sft()), rtol=1e-6)

    def grad(method):
        return jax.grad(lambda logp: rows_of(method, scores(logp), scores(REFERENCE)).loss_B.sum())(POLICY)

    np.testing.assert_allclose(grad(both), grad(Dpo()) + 0.2 * grad(Sft()), rtol=1e-5)


def test_cpo_is_a_sum():
    parts = Sum({"a": Sum({"nll": Sft(reduction="token_mean")}), "b": Cpo(lam=0.0)}, weights={"a": 0.7})
    np.testing.assert_allclose(loss_B(parts), loss_B(Cpo(lam=0.7)), rtol=1e-6)


def test_reads_what_any_of_them_reads():
    assert Sum({"a": Simpo(), "b": Sft()}).reference_reads == Reads()
    both = Sum({"a": Mpo(retain_pooling="last"), "b": Kto(), "c": Dpo(side="source")})
    assert both.policy_reads == Reads(Want.HIDDEN | Want.LOGP, Want.LOGP, "target", "", "last")
    assert both.reference_reads == Reads(Want.HIDDEN | Want.LOGP, Want.LOGP, "target", "", "last")


def test_metrics_are_kept_apart():
    rows = rows_of(Sum({"a": Dpo(), "b": Dpo(beta=0.2)}), scores(POLICY), scores(REFERENCE))
    np.testing.assert_allclose(rows.metrics_B["b/rewards/margins"], 2 * rows.metrics_B["a/rewards/margins"])
    np.testing.assert_allclose(rows.metrics_B["loss/a"] + rows.metrics_B["loss/b"], rows.loss_B)
    assert {"a/gap", "b/gap"} <= rows.by_language_B.keys()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Sum({}), "no terms"),
        (lambda: Sum({"a": Dpo()}, weights={"b": 1.0}), "the terms are a"),
        (lambda: Sum({"a": Dpo()}, weights={"a": -1.0}), "must not be negative"),
        (lambda: Sum({"a": Mpo(), "b": Mpo(retain_pooling="last")}), "last and mean"),
        (lambda: Sum({"a": Kto(), "b": Kto(side="source")}), "two kinds of mismatch pairs, source and target"),
        (lambda: Sum({k: Mpo(retain_by=k) for k in ("kl_of_policy", "kl_of_reference")}), "choose one `retain_by`"),
        (lambda: Sum({"a": Mpo(gap_target="ar"), "b": Mpo(gap_target="sw")}), "ar and sw"),
    ],
)
def test_bad_sums_are_refused_with_a_sentence(build, words):
    with pytest.raises(InputError, match=words):
        build()


def test_it_reads_the_files_of_its_terms():
    assert files_of(Lens("a.safetensors")) == {"probe": "a.safetensors"}
    assert files_of(Sum({"dpo": Dpo(), "lens": Lens("a.safetensors")})) == {"terms.lens.probe": "a.safetensors"}
