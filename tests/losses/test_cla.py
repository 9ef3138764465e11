"""CLA is its equation: in-batch negatives that are none where a row only fills up or is a translation too."""

import dataclasses

import jax
import numpy as np
import pytest
from answers import COUNTS, POLICY, pair, rows_of
from states import gradient_by_differences, prompts

from mpo_jax.errors import InputError
from mpo_jax.losses import Cla, Cpo, Sum
from mpo_jax.types import Reads, Scores, Want

B, D = 3, 7
random = np.random.default_rng(1)
SOURCE = random.normal(size=(B, D))
TARGET = SOURCE + 0.7 * random.normal(size=(B, D))


def scores(source=SOURCE, target=TARGET, **rows):
    of_prompts = prompts(np.asarray(source, np.float32), np.asarray(target, np.float32), **rows)
    return dataclasses.replace(of_prompts, target=pair(POLICY))


def contrastive(source, target, tau, candidates):
    """In float64, row by row."""
    found = []
    for i, x in enumerate(source):
        logits = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) / tau for y in target]
        found.append(np.log(sum(np.exp(logits[j]) for j in candidates[i])) - logits[i])
    return np.asarray(found)


EVERY = [[0, 1, 2]] * 3


@pytest.mark.parametrize("tau", [0.05, 0.5])
def test_is_its_equation(tau):
    method = Cla(contrastive=0.7, instruction=1.2, temperature=tau)
    chosen = -POLICY[0] / COUNTS[0].mean()
    rows = rows_of(method, scores(), Scores())
    np.testing.assert_allclose(rows.loss_B, 0.7 * contrastive(SOURCE, TARGET, tau, EVERY) + 1.2 * chosen, rtol=1e-5)
    np.testing.assert_allclose(rows.metrics_B["loss/nll"], chosen, rtol=1e-6)
    by_row = rows_of(Cla(contrastive=0.0, instruction=1.0, reduction="row_mean"), scores(), Scores())
    np.testing.assert_allclose(by_row.loss_B, -POLICY[0] / COUNTS[0], rtol=1e-6)


def test_the_gradient_is_that_of_the_equation_on_both_sides():
    method, tau = Cla(instruction=0.0, temperature=0.3), 0.3
    found = jax.grad(lambda x, y: rows_of(method, scores_of(x, y), Scores()).loss_B.sum(), argnums=(0, 1))(
        SOURCE.astype(np.float32), TARGET.astype(np.float32)
    )
    of_source = gradient_by_differences(lambda x: contrastive(x, TARGET, tau, EVERY).sum(), SOURCE)
    of_target = gradient_by_differences(lambda y: contrastive(SOURCE, y, tau, EVERY).sum(), TARGET)
    np.testing.assert_allclose(found[0], of_source, atol=1e-5)
    np.testing.assert_allclose(found[1], of_target, atol=1e-5)


def scores_of(source, target):
    return dataclasses.replace(prompts(source, target), target=pair(POLICY))


@pytest.mark.parametrize(
    ("rows", "candidates"),
    [
        ({"prompt": [0, 0, 2]}, [[0, 2], [1, 2], [0, 1, 2]]),  # the first two are translations of one prompt
        ({"weight": [1, 1, 0]}, [[0, 1], [0, 1], None]),  # the third only fills up
    ],
    ids=["one prompt twice", "filling"],
)
def test_what_is_no_negative(rows, candidates):
    loss_B = rows_of(Cla(instruction=0.0), scores(**rows), Scores()).loss_B
    for i, of_row in enumerate(candidates):
        if of_row is not None:
            expected = contrastive(SOURCE, TARGET, 0.05, [of_row] * 3)[i]
            np.testing.assert_allclose(loss_B[i], expected, rtol=1e-5, atol=1e-6)


def test_a_row_of_filling_has_a_finite_loss_and_no_gradient():
    def total(source, target):
        of_prompts = prompts(source, target, weight=[1, 1, 0])
        rows = rows_of(Cla(), dataclasses.replace(of_prompts, target=pair(POLICY)), Scores())
        return (rows.loss_B * of_prompts.rows.weight_B).sum()

    source, target = (np.where(np.arange(B)[:, None] < 2, x, 0).astype(np.float32) for x in (SOURCE, TARGET))
    value, slopes = jax.value_and_grad(total, argnums=(0, 1))(source, target)
    assert np.isfinite(value)
    for slope in slopes:
        assert np.isfinite(slope).all() and slope[:2].any() and not slope[2].any()


def test_what_it_reads_and_says():
    assert Cla().policy_reads == Reads(Want.PROMPT, Want.PROMPT | Want.LOGP, layer=1, contrast=True)
    assert Cla().reference_reads == Reads()
    assert Sum({"a": Cla(), "b": Cpo()}).policy_reads == Cla().policy_reads
    rows = rows_of(Cla(), scores(), Scores())
    similarity = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in TARGET] for x in SOURCE]
    assert rows.metrics_B["retrieval"].tolist() == [np.argmax(of) == i for i, of in enumerate(similarity)]
    np.testing.assert_allclose(rows.by_language_B["cosine"], np.diagonal(similarity), rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Cla(temperature=0), "temperature=0 must be above 0"),
        (lambda: Cla(instruction=-1), "instruction=-1 must not be negative"),
        (lambda: Cla(layer=-2), "layer=-2"),
        (lambda: Cla(reduction="mean"), "loss.reduction='mean'"),
    ],
)
def test_what_it_cannot_be(build, words):
    with pytest.raises(InputError, match=words):
        build()
