"""The best is marked where it is the best, what overlaps it too, and what runs began with is said once."""

import dataclasses

import pytest

from mpo_jax.reporting.facts import Figure, Measure
from mpo_jax.reporting.side_by_side import compare


def measure(*, better="higher", dominant=("en",), **after: tuple[float, float, float]) -> Measure:
    before = {name: Figure(0.0, -0.1, 0.1) for name in after}
    of = {"before": before, "after": {name: Figure(*ends) for name, ends in after.items()}}
    return Measure("gap", "Reward gap", "nats", better, of, dominant=dominant)


ONE = measure(en=(1.0, 0.9, 1.1), sw=(0.5, 0.4, 0.6), ar=(0.5, 0.4, 0.6))
OTHER = measure(en=(2.0, 1.9, 2.1), sw=(0.7, 0.65, 0.8), ar=(0.55, 0.5, 0.7))


def marks(found, name: str) -> list[str]:
    (row,) = [row for row in found.rows if row.name == name]
    return [cell.mark for cell in row.cells]


def test_the_best_is_marked_and_what_overlaps_it():
    found = compare([(1, "one", ONE), (2, "other", OTHER)])
    assert [column.name for column in found.columns] == ["before", "one", "other"]
    assert marks(found, "sw") == ["", "", "best"]
    assert marks(found, "ar") == ["", "alike", "best"]
    assert marks(found, "mean of others") == ["", "", "best"]


def test_beyond_what_is_enough_more_is_no_better():
    near, far, short = (
        dataclasses.replace(measure(sw=ends, ar=ends), enough=1.0)
        for ends in ((1.1, 1.0, 1.2), (4.0, 3.5, 4.5), (0.8, 0.7, 1.05))
    )
    found = compare([(1, "near", near), (2, "far", far), (3, "short", short)])
    assert marks(found, "sw") == ["", "best", "best", "alike"]
    figure = found.rows[0].cells[2].figure
    assert figure is not None
    assert figure.value == 4.0  # what is shown is the whole gap


def test_where_lower_is_better_the_lowest_is_the_best():
    one, other = (measure(better="lower", sw=ends) for ends in ((0.1, 0.05, 0.2), (0.4, 0.3, 0.5)))
    assert marks(compare([(1, "one", one), (2, "other", other)]), "sw") == ["", "best", ""]


def test_nothing_is_best_in_a_dominant_language_or_alone():
    assert marks(compare([(1, "one", ONE), (2, "other", OTHER)]), "en") == ["", "", ""]
    assert not compare([(1, "one", ONE)]).marks


def test_runs_that_began_elsewhere_have_columns_of_their_own():
    of = {"before": {"en": Figure(0.3)}, "after": {"en": Figure(0.4)}}
    found = compare([(1, "one", ONE), (2, "other", Measure("gap", "Reward gap", "nats", "higher", of))])
    assert [column.name for column in found.columns] == ["one, before", "one", "other, before", "other"]
    assert [column.style for column in found.columns] == [0, 1, 0, 2]
    assert [cell.figure for cell in found.rows[1].cells][2:] == [None, None]  # a language that only one of them has


def test_the_mean_leaves_the_dominant_language_out():
    found = compare([(1, "one", ONE)])
    assert [row.name for row in found.rows] == ["en", "sw", "ar", "mean of others"]
    figure = found.rows[-1].cells[-1].figure
    assert figure is not None
    assert figure.value == pytest.approx(0.5)


def test_one_model_alone_is_a_table_too():
    only = Measure("gap", "Reward gap", "nats", "higher", {"model": {"en": Figure(0.3)}})
    found = compare([(1, "one", only)])
    assert [column.name for column in found.columns] == ["model"]
    assert len(found.rows) == 1
