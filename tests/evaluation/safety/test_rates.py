"""Rates are of verdicts alone, intervals hold what they must, and the same verdicts give the same table."""

import numpy as np
import pytest
from scipy import stats

from mpo_jax.clients.judges.base import REFUSALS, THREE_CLASSES, TWO_CLASSES
from mpo_jax.errors import InputError
from mpo_jax.evaluation.safety.agreement import agreement
from mpo_jax.evaluation.safety.exchanges import Exchange
from mpo_jax.evaluation.safety.rates import Interval, differences, rate_of, table
from mpo_jax.evaluation.safety.relation import read_gaps, relation
from mpo_jax.evaluation.safety.verdicts import UNPARSED, Verdict


def said(language, *words):
    return [
        Verdict(Exchange(language, str(n), 0, 0, f"q{n}", "r"), *((None, word[1:]) if word.startswith("!") else (word,)))
        for n, word in enumerate(words)
    ]


SW = said("sw", "safe", "unsafe", "invalid", "unsafe", UNPARSED, "!no answer: down", "!no answer: down")
BN = said("bn", "safe", "safe", "safe", "unsafe")


def test_a_line_counts_everything_and_rates_what_could_be_read():
    found = table([*SW, *BN], THREE_CLASSES)
    line = found.lines[0]
    assert (line.language, line.exchanges, line.read, line.unparsed) == ("sw", 7, 4, 1)
    assert line.verdicts == {"safe": 1, "unsafe": 2, "invalid": 1}
    assert line.missing == {"no answer: down": 2}
    assert line.exchanges == line.read + line.unparsed + sum(line.missing.values())
    assert line.rates["asr_paper"].value == 3 / 4
    assert line.rates["asr_deng"].value == 2 / 4
    assert found.worst == "sw"
    assert found.average["asr_paper"].value == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert found.average["asr_deng"].value == pytest.approx((2 / 4 + 1 / 4) / 2)


def test_nothing_read_is_no_rate():
    found = table(said("sw", UNPARSED, "!down"), THREE_CLASSES)
    assert found.lines[0].rates == {"asr_paper": None, "asr_deng": None}
    assert found.average == {"asr_paper": None, "asr_deng": None}
    assert found.worst is None


def test_wilsons_interval():
    """Known values: 8 of 10 and 0 of 315 (E. B. Wilson, 1927, by the closed form)."""
    z = stats.norm.ppf(0.975)
    for hits, count in ((8, 10), (0, 315), (315, 315), (1, 3)):
        p = hits / count
        middle = (p + z**2 / (2 * count)) / (1 + z**2 / count)
        half = z * np.sqrt(p * (1 - p) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
        found = rate_of(hits, count)
        np.testing.assert_allclose((found.value, found.low, found.high), (p, middle - half, middle + half), atol=1e-12)
        assert found.low <= found.value <= found.high
    assert rate_of(0, 0) is None


def test_before_and_after_are_paired():
    """A language in which no prompt changed has no uncertainty, however the prompts differ."""
    before = [*said("sw", *["unsafe"] * 10, *["safe"] * 10), *said("bn", *["unsafe"] * 20)]
    after = [*said("sw", *["safe"] * 20), *said("bn", *["unsafe"] * 20)]
    found = differences(before, after, THREE_CLASSES)["asr_paper"]
    assert found["bn"] == Interval(0, 0, 0)
    assert found["sw"].value == -0.5
    assert found["sw"].low < -0.5 < found["sw"].high < 0
    assert found["average"].value == -0.25
    assert differences(before, after, THREE_CLASSES) == differences(before, after, THREE_CLASSES), "the seed is fixed"


def test_a_pair_needs_both_verdicts():
    before, after = said("sw", "unsafe", "unsafe", "safe"), said("sw", "safe", UNPARSED, "!down")
    assert differences(before, after, THREE_CLASSES)["asr_paper"]["sw"].value == -1.0
    assert differences(said("sw", UNPARSED), after, THREE_CLASSES) == {"asr_paper": {}, "asr_deng": {}}


def test_a_prompt_is_drawn_in_all_languages_and_samples_together():
    """Two prompts, one always unsafe and one never, in many samples: the average is as uncertain as two prompts are."""
    many = [
        Verdict(Exchange(language, name, sample, 0, "q", "r"), word)
        for language in ("sw", "bn", "ko")
        for name, word in (("a", "unsafe"), ("b", "safe"))
        for sample in range(50)
    ]
    average = table(many, THREE_CLASSES).average["asr_paper"]
    assert (average.low, average.value, average.high) == (0.0, 0.5, 1.0)


def test_two_judges_agree_beyond_chance():
    """By hand: 6 of 8 the same; by chance (5*5 + 3*3) / 64."""
    one = said("sw", "safe", "safe", "safe", "safe", "unsafe", "unsafe", "unsafe", "safe", UNPARSED)
    two = said("sw", "safe", "safe", "safe", "safe", "unsafe", "unsafe", "safe", "unsafe", "safe")
    found = agreement(("a", THREE_CLASSES, one), ("b", THREE_CLASSES, two))
    assert (found.count, found.same) == (8, 6)
    assert found.kappa == pytest.approx((6 / 8 - 34 / 64) / (1 - 34 / 64))
    assert found.confusion["safe"] == {"safe": 4, "unsafe": 1, "invalid": 0}
    assert agreement(("a", THREE_CLASSES, one), ("a", THREE_CLASSES, one)).kappa == 1


def test_judges_of_other_verdicts_are_compared_on_unsafe_or_not():
    one, two = said("sw", "safe", "invalid", "unsafe"), said("sw", "safe", "safe", "unsafe")
    found = agreement(("a", THREE_CLASSES, one), ("b", TWO_CLASSES, two))
    assert found.confusion == {"unsafe": {"unsafe": 1, "not unsafe": 0}, "not unsafe": {"unsafe": 0, "not unsafe": 2}}
    with pytest.raises(InputError, match="'a' and 'b' have no verdict in common"):
        agreement(("a", THREE_CLASSES, one), ("b", REFUSALS, []))


def test_one_verdict_of_everything_has_no_kappa():
    same = said("sw", "safe", "safe")
    assert agreement(("a", THREE_CLASSES, same), ("b", THREE_CLASSES, same)).kappa is None
    assert agreement(("a", THREE_CLASSES, same), ("b", THREE_CLASSES, [])).kappa is None


def rated(**unsafe):
    """A table whose languages have so many unsafe answers of ten."""
    return table([v for name, n in unsafe.items() for v in said(name, *["unsafe"] * n, *["safe"] * (10 - n))], THREE_CLASSES)


def test_gap_and_rate_go_together():
    gaps = {"en": 1.6, "zh": 0.4, "ko": 0.3, "ar": 0.6, "bn": 0.0, "th": 9.0}
    found = relation(gaps, rated(en=1, zh=3, ko=4, ar=2, bn=9), "asr_paper")
    assert found.languages == ["en", "zh", "ko", "ar", "bn"], "those with both"
    x, y = [1.6, 0.4, 0.3, 0.6, 0.0], [0.1, 0.3, 0.4, 0.2, 0.9]
    assert found.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic) == pytest.approx(-1)
    assert found.pearson.value == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.pearson.low <= found.pearson.value <= found.pearson.high
    assert relation(gaps, rated(en=1, zh=3), "asr_paper") is None
    assert relation(gaps, rated(en=1, zh=1, ko=1), "asr_paper") is None


def test_gaps_are_read_by_label(tmp_path):
    line = '[{"name": "en (dominant)", "mean": 1.5}, {"name": "sw", "mean": 0.5}]'
    path = tmp_path / "reward_gap.json"
    path.write_text(f'{{"model": {line}}}')
    assert read_gaps(path, "before") == {"en": 1.5, "sw": 0.5}
    path.write_text(f'{{"before": {line}, "after": {line}}}')
    assert read_gaps(path, "after") == {"en": 1.5, "sw": 0.5}
    with pytest.raises(InputError, match="has no gaps of a model 'model'"):
        read_gaps(path, "model")
    for text in ("[]", "{", '{"model": [{"name": "sw"}]}'):
        path.write_text(text)
        with pytest.raises(InputError, match="reward_gap"):
            read_gaps(path, "model")
    with pytest.raises(InputError, match="cannot be read"):
        read_gaps(tmp_path / "nowhere", "model")
