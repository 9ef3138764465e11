"""Win rates are of what the judge said; what it did not say counts as neither won nor lost."""

import math

import pytest

from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.evaluation.usefulness.x_alpaca_eval import preference, scores


@pytest.mark.parametrize(
    ("top", "p_first"),
    [
        ({"m": math.log(0.6), "M": math.log(0.2), "The": math.log(0.1)}, 0.75),
        ({"M": math.log(0.9), "m": math.log(0.1)}, 0.1),
        ({"m": -3.0, "The": -0.1}, 1.0),
        ({"M": -3.0, "The": -0.1}, 0.0),
        ({"The": -0.1, " m": -3.0}, None),
        ({"m": -math.inf}, None),
        ({}, None),
    ],
)
def test_the_share_of_a_name(top, p_first):
    """p(m) / (p(m) + p(M)), and of M what is left."""
    found, other = preference(top, "m"), preference(top, "M")
    if p_first is None:
        assert found is other is None
    else:
        assert (found, other) == (pytest.approx(p_first), pytest.approx(1 - p_first))


def test_the_win_rate_is_the_mean_of_what_was_said():
    def prompt(number: int, language: str) -> Prompt:
        return Prompt(str(number), language, (Message("user", "?"),))

    said = [(prompt(1, "sw"), 0.25, False), (prompt(2, "sw"), 1.0, False), (prompt(3, "sw"), None, False)]
    said += [(prompt(4, "sw"), None, True), (prompt(1, "en"), 0.5, False)]
    (sw, en), items = scores(said)
    assert (sw.language, sw.value, sw.n, sw.unparsed, sw.errors) == ("sw", 62.5, 2, 1, 1)
    assert items[sw.key] == {("1", ""): 25.0, ("2", ""): 100.0}
    assert (en.value, en.n, en.low, en.high) == (50.0, 1, None, None), "one prompt tells no spread"
    assert sw.low is not None and sw.high is not None and 25 <= sw.low < sw.value < sw.high <= 100
