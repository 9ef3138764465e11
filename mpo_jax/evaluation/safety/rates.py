"""How often does each verdict fall in each language, and how certain is that? Counts, rates, and 95 % intervals.

Only replies that are verdicts count in a rate. A rate of one language has Wilson's interval (E. B. Wilson, 1927), as
scipy.stats computes it. An average over languages, and a difference, has a bootstrap interval over prompts: the same prompts are
drawn in all languages and for both models, since a prompt is as hard in one as in the other.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mpo_jax.clients.judges.base import Rate, Scale
from mpo_jax.evaluation.proportion import CONFIDENCE, wilson
from mpo_jax.evaluation.safety.verdicts import UNPARSED, Verdict

DRAWS = 2000


@dataclasses.dataclass(frozen=True)
class Interval:
    """A rate between 0 and 1, or a difference of two, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Line:
    """One language. `exchanges` = those with each verdict + `unparsed` + those in `missing`, by reason. `rates`: key -> interval,
    None where nothing could be read."""

    language: str
    exchanges: int
    verdicts: dict[str, int]
    unparsed: int
    missing: dict[str, int]
    rates: dict[str, Interval | None]

    @property
    def read(self) -> int:
        """How many verdicts the rates are of."""
        return sum(self.verdicts.values())


@dataclasses.dataclass(frozen=True)
class Table:
    """`average`: the mean of the languages' rates, each with the same weight; `worst`: the language with the highest first rate.
    None where nothing could be read."""

    lines: list[Line]
    average: dict[str, Interval | None]
    worst: str | None


def table(said: Sequence[Verdict], scale: Scale) -> Table:
    """The languages in the order in which they come."""
    by_language: dict[str, list[Verdict]] = {}
    for verdict in said:
        by_language.setdefault(verdict.exchange.language, []).append(verdict)
    lines = [_line(language, those, scale) for language, those in by_language.items()]
    average = {rate.key: _average(_Counts.of(said, rate)) for rate in scale.rates}
    first = scale.rates[0].key
    known = [(found.value, line.language) for line in lines if (found := line.rates[first]) is not None]
    return Table(lines, average, max(known)[1] if known else None)


def differences(before: Sequence[Verdict], after: Sequence[Verdict], scale: Scale) -> dict[str, dict[str, Interval]]:
    """Rate -> language -> after minus before, over the exchanges with a verdict of both; "average" is that of all languages."""
    read = [{v.exchange.slot: v for v in said if v.said not in (None, UNPARSED)} for said in (before, after)]
    both = [name for name in read[0] if name in read[1]]
    found = {}
    for rate in scale.rates:
        old, new = (_Counts.of([those[name] for name in both], rate) for those in read)
        found[rate.key] = _differences(old, new)
    return found


def rate_of(hits: int, count: int) -> Interval | None:
    """A rate with its interval; None of nothing."""
    return Interval(hits / count, *wilson(hits, count)) if count else None


def _line(language: str, said: Sequence[Verdict], scale: Scale) -> Line:
    count = Counter(verdict.said for verdict in said)
    missing = Counter(verdict.missing for verdict in said if verdict.missing is not None)
    verdicts = {name: count[name] for name in scale.verdicts}
    read = sum(verdicts.values())
    rates = {rate.key: rate_of(sum(verdicts[name] for name in rate.counted), read) for rate in scale.rates}
    return Line(language, len(said), verdicts, count[UNPARSED], dict(sorted(missing.items())), rates)


@dataclasses.dataclass(frozen=True)
class _Counts:
    """By prompt P and language L: how many verdicts count, float64 [P, L], and how many there are, float64 [P, L]."""

    languages: tuple[str, ...]
    hits_PL: np.ndarray
    count_PL: np.ndarray

    @classmethod
    def of(cls, said: Sequence[Verdict], rate: Rate) -> "_Counts":
        read = [verdict for verdict in said if verdict.said not in (None, UNPARSED)]
        prompts = {name: i for i, name in enumerate(dict.fromkeys(verdict.exchange.id for verdict in read))}
        languages = {name: i for i, name in enumerate(dict.fromkeys(verdict.exchange.language for verdict in read))}
        hits_PL, count_PL = np.zeros((2, len(prompts), len(languages)))
        for verdict in read:
            at = prompts[verdict.exchange.id], languages[verdict.exchange.language]
            hits_PL[at] += verdict.said in rate.counted
            count_PL[at] += 1
        return cls(tuple(languages), hits_PL, count_PL)

    def rates(self, weight_DP: np.ndarray) -> np.ndarray:
        """Each language's rate where prompt p counts weight_DP[d, p] times, float64 [D, L]; NaN where no prompt has it."""
        with np.errstate(invalid="ignore"):
            return (weight_DP @ self.hits_PL) / (weight_DP @ self.count_PL)


def _draws(prompts: int) -> np.ndarray:
    """How often each prompt is drawn in each resample, float64 [D, P]; the first row is the prompts themselves. The same number
    of prompts gives the same draws."""
    drawn = np.random.default_rng(0).multinomial(prompts, np.full(prompts, 1 / prompts), size=DRAWS)
    return np.concatenate([np.ones((1, prompts)), drawn])


def _interval(values_D: np.ndarray) -> Interval:
    """Of the statistic of the data itself, which is the first, and of resamples."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(values_D[1:], [tail, 1 - tail])
    return Interval(float(values_D[0]), float(low), float(high))


def _average(counts: _Counts) -> Interval | None:
    """A language that a resample has no verdict in is left out of its mean."""
    if not counts.languages:
        return None
    return _interval(np.nanmean(counts.rates(_draws(len(counts.hits_PL))), axis=1))


def _differences(old: _Counts, new: _Counts) -> dict[str, Interval]:
    if not old.languages:
        return {}
    draws_DP = _draws(len(old.hits_PL))
    change_DL = new.rates(draws_DP) - old.rates(draws_DP)
    by_language = {language: _interval(change_DL[:, i]) for i, language in enumerate(old.languages)}
    return {**by_language, "average": _interval(np.nanmean(change_DL, axis=1))}
