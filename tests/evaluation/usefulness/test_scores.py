"""Known values, and coverage of the intervals."""

import math

import numpy as np
import pytest
from scipy import stats

from mpo_jax.evaluation.usefulness.scores import bootstrapped, by_normal, difference, is_mean, mean_of


def apart(values) -> dict:
    return {(str(i), ""): float(value) for i, value in enumerate(values)}


def test_a_share_has_wilsons_interval():
    found = mean_of(apart([1] * 7 + [0] * 3))
    assert found["value"] == pytest.approx(0.7) and found["n"] == 10
    z, p, n = 1.959963984540054, 0.7, 10
    middle, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (found["low"], found["high"]) == pytest.approx((middle - half, middle + half))
    nothing = mean_of(apart([0] * 250))
    assert (nothing["low"], nothing["stderr"]) == (pytest.approx(0), 0) and 0.01 < nothing["high"] < 0.02


def test_other_items_have_students_interval():
    values = [3.0, 4.5, 9.0, 2.5]
    found = mean_of(apart(values))
    known = stats.ttest_1samp(values, 0.0).confidence_interval()
    assert found["stderr"] == pytest.approx(stats.sem(values))
    assert (found["low"], found["high"]) == pytest.approx((known.low, known.high))


def test_items_of_a_cluster_are_one_observation():
    """Twins tell nothing new: the error is that of the clusters' means, where all have as many items."""
    values = [3.0, 4.5, 9.0, 2.5]
    twins = {(str(i), turn): value for i, value in enumerate(values) for turn in "01"}
    found, alone = mean_of(twins), mean_of(apart(values))
    assert found["n"] == 8
    assert {**found, "n": 4} == pytest.approx(alone)
    assert mean_of({("a", "0"): 1.0, ("a", "1"): 2.0}) == {"value": 1.5, "n": 2}, "one cluster tells no spread"
    assert mean_of({}) == {"value": None, "n": 0}


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        questions = random.normal(5, 2, 40)
        items = {(str(q), str(t)): value + random.normal() for q, value in enumerate(questions) for t in range(2)}
        found = mean_of(items)
        hits += found["low"] <= 5 <= found["high"]
    assert 0.92 < hits / 400 < 0.98


def test_a_difference_is_of_the_same_questions():
    before, after = apart([1, 0, 0, 1, 0, 1]), apart([1, 1, 0, 1, 1])
    found = difference(before, {**after, ("new", ""): 0.0})
    assert found["n"] == 5 and found["value"] == pytest.approx(0.4)
    known = stats.ttest_rel([1, 1, 0, 1, 1], [1, 0, 0, 1, 0]).confidence_interval()
    assert (found["low"], found["high"]) == pytest.approx((known.low, known.high)), "no share, though all changes are 0 or 1"
    assert difference(before, {}) == {"value": None, "n": 0}
    assert difference(before, before) == {"value": 0, "n": 6}, "six questions without a change do not say that there is none"


def test_figures_that_are_no_means():
    found = by_normal(12.5, 0.5, 30)
    assert (found["low"], found["high"]) == pytest.approx((12.5 - 0.98, 12.5 + 0.98), abs=1e-3)
    assert by_normal(12.5, None, 30) == by_normal(12.5, math.nan, 30) == {"value": 12.5, "n": 30}
    assert is_mean(0.5, [0, 1]) and not is_mean(0.6, [0, 1]) and not is_mean(0.0, [])


def test_a_bootstrap_agrees_with_student_and_stays_within_the_items():
    random = np.random.default_rng(1)
    many = apart(random.uniform(0, 100, 400))
    found, student = bootstrapped(many), mean_of(many)
    assert (found["value"], found["stderr"], found["n"]) == (student["value"], student["stderr"], 400)
    assert (found["low"], found["high"]) == pytest.approx((student["low"], student["high"]), abs=0.5 * student["stderr"])
    assert bootstrapped(many) == found
    rare = apart([0.0] * 29 + [100.0])
    assert mean_of(rare)["low"] < 0 <= bootstrapped(rare)["low"], "where Student's would leave the scale"
    assert bootstrapped(apart([50.0] * 9)) == {"value": 50.0, "n": 9} and bootstrapped({}) == {"value": None, "n": 0}
