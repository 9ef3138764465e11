"""The arithmetic of choosing pairs, by tables made by hand."""

import numpy as np
import pytest

from mpo_jax.recipes.icr import Table
from mpo_jax.recipes.mapo import cross_entropy, repeats_itself, score
from mpo_jax.recipes.pairing import all_pairs, length_penalty, pair_of


def array(*rows):
    return np.asarray(rows, np.float64)


def test_the_penalty_is_the_first_alpha_for_which_best_and_worst_are_equally_long():
    """One prompt: A has reward 3 and 30 characters, B 0 and 10, C 1 and 20. A is best until 3 - 30 a = 1 - 20 a, that is a = 0.2;
    B is worst until -10 a = 1 - 20 a, a = 0.1, and A is best until 3 - 30 a = -10 a, a = 0.15. Lengths differ by 20 up to 0.1,
    then by 10 (C is worst), up to where B becomes best: from then on by -10 or -20."""
    reward, length = array([3, 0, 1]), array([30, 10, 20])
    assert length_penalty(reward, length) == pytest.approx(0.101)
    score_K = (reward - 0.101 * length)[0]
    assert pair_of(score_K) == (0, 2)


def test_the_mean_over_prompts_counts_and_the_sign_within_it():
    """Of two prompts, one's best is longer by 10 and the other's shorter by 10: at alpha 0 already the mean is 0."""
    assert length_penalty(array([1, 0], [1, 0]), array([20, 10], [10, 20])) == 0.0
    assert length_penalty(array([1.0005, 0], [5, 0]), array([20, 10], [20, 10])) == pytest.approx(0.101)


def test_equal_lengths_need_no_penalty_and_ties_take_the_first():
    assert length_penalty(array([1, 2, 3]), array([5, 5, 5])) == 0.0
    assert pair_of(np.asarray([2.0, 1.0, 2.0, 1.0])) == (0, 1)


def test_missing_scores_and_the_bound():
    scores = np.asarray([np.nan, 5.0, 3.0, np.nan, 1.0])
    assert pair_of(scores) == (1, 4)
    assert pair_of(scores, bound=5.0) == (2, 4)
    assert pair_of(scores, bound=1.0) == (None, 4)
    assert length_penalty(array([np.nan, 1, 0]), array([9, 7, 7])) == 0.0


def test_all_pairs_leave_out_equals():
    assert all_pairs(np.asarray([1.0, 3.0, 1.0, 2.0])) == [(1, 3), (1, 0), (1, 2), (3, 0), (3, 2)]
    assert all_pairs(np.asarray([1.0, np.nan, 2.0])) == [(2, 0)]


def test_a_table_of_rewards_becomes_pairs_or_reasons():
    table = Table(
        ("a", "b", "c", "d"),
        array([2, 1, 0], [np.nan, 1, np.nan], [7, 7, 7], [0, 4, 9]),
        array([10, 10, 10], [1, 1, 1], [5, 5, 5], [10, 10, 10]),
    )
    found = table.pairs(True, 9.0)
    assert found["a"] == {"samples": [0, 2], "reward": [2.0, 0.0], "characters": [10, 10], "alpha": 0.0}
    assert found["b"] == "fewer than two samples have a reward"
    assert found["c"] == "no sample is better than another"
    assert found["d"]["samples"] == [1, 0], "9 reaches the bound"
    assert table.pairs(True, -1.0)["a"] == "no sample is below --upper-bound"


def test_length_control_can_be_left_out():
    table = Table(("a",), array([3, 0, 1]), array([30, 10, 20]))
    assert table.pairs(False, None)["a"]["samples"] == [0, 1]
    assert table.pairs(True, None)["a"]["samples"] == [0, 2]


def test_mapo_takes_the_mean_of_the_inverse_entropies():
    """Of 0.5 and 2 nats a token: (2 + 0.5) / 2, and not 1 / 1.25."""
    assert score([0.5, 2.0]) == 1.25
    assert cross_entropy([-1.0, -2.0, -3.0]) == 2.0
    assert score([0.0]) == 1e6, "finite"


def test_an_answer_that_repeats_a_line_is_no_reference():
    assert repeats_itself("one\ntwo\n one \n")
    assert not repeats_itself("one\n\n\ntwo")
