"""Axes hold all their numbers and have round ticks; curves are thinned without losing their end."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo_jax.reporting.drawings import DEPTH, POINTS, dots, panels, scatters
from mpo_jax.reporting.facts import Figure, Measure, Run
from mpo_jax.reporting.scales import axis, log_axis
from mpo_jax.reporting.side_by_side import compare

NUMBERS = st.lists(st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-9), min_size=1, max_size=20)


@given(NUMBERS)
def test_a_linear_axis_holds_all_numbers_and_a_few_ticks(numbers):
    found = axis(numbers)
    assert all(-0.01 <= found.at(x) <= 100.01 for x in numbers)
    assert 2 <= len(found.ticks) <= 8
    assert found.ticks[0][0] == 0
    assert found.ticks[-1][0] == 100
    positions = [at for at, _ in found.ticks]
    assert positions == sorted(positions)


@given(st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=20))
def test_a_logarithmic_axis_holds_all_numbers(numbers):
    found = log_axis(numbers)
    assert found is not None
    assert all(-0.01 <= found.at(x) <= 100.01 for x in numbers)
    assert len(found.ticks) <= 8
    assert all(0 <= at <= 100 for at, _ in found.ticks)


def test_ticks_are_round_and_say_what_they_are():
    assert [label for _, label in axis([-0.13, 1.04]).ticks] == ["−0.5", "0.0", "0.5", "1.0", "1.5"]
    assert [label for _, label in axis([0.0, 0.9], percent=True).ticks] == ["0%", "20%", "40%", "60%", "80%", "100%"]


def test_numbers_that_are_none_do_not_matter():
    assert axis([math.nan, 0.0, 1.0, math.inf]).ticks == axis([0.0, 1.0]).ticks
    assert log_axis([0.0, -1.0]) is None


def test_a_long_curve_is_thinned_and_keeps_its_end():
    (panel,) = panels({"loss": [(k, 1.0 + k) for k in range(1, 10_001)]})
    (curve,) = panel.curves
    at = curve.points.split()
    assert POINTS / 2 <= len(at) <= POINTS
    assert at[-1].startswith("100,")


def test_a_part_that_begins_at_nothing_leaves_the_rest_room():
    curves = {"loss": [(1, 1.0), (2, 0.5)], "loss/retain": [(1, 0.0), (2, 1e-30), (3, 0.1), (4, 0.2)]}
    (panel,) = panels(curves)
    assert panel.y.high / panel.y.low < 2 * DEPTH
    assert [len(curve.points.split()) for curve in panel.curves] == [2, 2]


def test_no_curve_no_panel():
    assert panels({"loss": [(1, math.nan), (2, math.inf)], "eval_gap/sw": [(0, 1.0)]}) == []


def measure(key: str, **figures: float) -> Measure:
    return Measure(key, key, "percent", "lower", {"before": {name: Figure(value) for name, value in figures.items()}})


def test_points_are_languages_that_both_have_and_their_rank_correlation_is_known():
    run = Run("one", gap=measure("gap", a=0.1, b=0.2, c=0.3, d=0.4), safety=[measure("asr", a=0.9, b=0.5, c=0.4, e=0.0)])
    (found,) = scatters([run])
    assert [point.language for point in found.points] == ["a", "b", "c"]
    assert found.spearman == pytest.approx(-1)
    assert scatters([Run("one", gap=run.gap, safety=[measure("asr", a=0.9)])]) == []


def test_dots_lie_where_their_numbers_are():
    found = dots(compare([(1, "one", measure("asr", a=0.0, b=1.0))]))
    assert [[dot.x for dot in those] for _, _, those in found.rows] == [[0], [100]]
