"""Each dominant pair counts once, the interval holds the mean, and the same rows give the same table."""

import numpy as np
import pytest

from mpo_jax.evaluation.gap_table import RowGap, format_tables, gap_table


def rows():
    """Two dominant pairs, each parallel to two target languages."""
    return [
        RowGap(f"{pair}-{lang}", lang, target, "en", f"pair {pair}", source)
        for pair, source in ((0, 1.0), (1, 3.0))
        for lang, target in (("zh", -1.0 - pair), ("ar", 0.5 * pair))
    ]


def test_the_dominant_side_comes_first_and_each_pair_counts_once():
    table = gap_table(rows())
    assert [(line.name, line.count, line.mean) for line in table] == [("en (dominant)", 2, 2.0), ("ar", 2, 0.25), ("zh", 2, -1.5)]


def test_pairs_of_two_dominant_languages_stay_apart():
    """The same text as key, in another language: another pair."""
    table = gap_table([RowGap("1", "sw", 0.0, "en", "k", 1.0), RowGap("2", "sw", 0.0, "zh", "k", 5.0)])
    assert [(line.name, line.mean) for line in table] == [("en (dominant)", 1.0), ("zh (dominant)", 5.0), ("sw", 0.0)]


def test_rows_without_a_dominant_side():
    assert [line.name for line in gap_table([RowGap("1", "sw", 0.5), RowGap("2", "ar", 0.5)])] == ["ar", "sw"]


def test_the_interval_holds_the_mean_and_narrows_with_rows():
    random = np.random.default_rng(0)
    widths = []
    for count in (20, 500):
        (line,) = gap_table([RowGap(str(i), "sw", float(x)) for i, x in enumerate(random.normal(1.0, 1.0, count))])
        assert line.low < line.mean < line.high
        widths.append(line.high - line.low)
    assert widths[1] == pytest.approx(2 * 1.96 / np.sqrt(500), rel=0.15)  # the normal interval
    assert widths[1] < widths[0]


def test_the_interval_is_the_one_that_it_is_called():
    """Of 8 rows, half of them 0 and half 1, 3.5 % of the resamples have one row of 1 at most, and 14 % two at most: the 95 %
    interval begins at 1/8, where one of 90 % would begin at 2/8."""
    (line,) = gap_table([RowGap(str(i), "sw", float(i % 2)) for i in range(8)])
    assert (line.low, line.mean, line.high) == (1 / 8, 0.5, 7 / 8)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_rows_that_say_the_same_have_no_spread(count):
    (line,) = gap_table([RowGap(str(i), "sw", 0.1) for i in range(count)])
    assert line.low == line.mean == line.high == pytest.approx(0.1)


def test_the_same_rows_give_the_same_table():
    assert gap_table(rows()) == gap_table(list(reversed(rows())))


def test_tables_stand_side_by_side():
    table = gap_table(rows())
    text = format_tables({"before": table, "after": list(reversed(table))})
    lines = text.splitlines()
    assert lines[0].split() == ["language", "rows", "before", "after"]
    assert lines[2].split()[:3] == ["ar", "2", "+0.250"]
    assert lines[2].count("+0.250") == 2, "a language is found by its name, whatever the order"
    assert len({len(line) for line in lines}) == 1
