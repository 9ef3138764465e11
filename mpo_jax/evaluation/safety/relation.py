"""Do attacks succeed more often in a language with a smaller reward gap? Correlations over languages, as MPO's Table 1 suggests.

A handful of languages says little: the interval, over resampled languages, shows how little.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from mpo_jax.errors import InputError
from mpo_jax.evaluation.proportion import CONFIDENCE
from mpo_jax.evaluation.safety.rates import DRAWS, Interval, Table

FEWEST = 3  # languages: two always correlate


@dataclasses.dataclass(frozen=True)
class Relation:
    """Over these languages, whose gaps (nats per token) and rates are listed in this order. The ends of an interval are those of
    resamples in which neither quantity is constant."""

    languages: list[str]
    gaps: list[float]
    rates: list[float]
    spearman: Interval
    pearson: Interval


def read_gaps(path: Path, label: str) -> dict[str, float]:
    """Language -> mean gap, of the model with this label in a reward_gap.json, or of its only model. Errors: no such file, no
    such table, no such label."""
    try:
        tables: Any = json.loads(path.read_text(encoding="utf-8"))
        table = next(iter(tables.values())) if len(tables) == 1 else tables[label]
        return {line["name"].removesuffix(" (dominant)"): float(line["mean"]) for line in table}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give the reward_gap.json of mpo_jax.reward_gap.") from None
    except KeyError:
        raise InputError(f"{path} has no gaps of a model '{label}': measure the same models with mpo_jax.reward_gap.") from None
    except (ValueError, TypeError, AttributeError):
        raise InputError(f"{path} is no table of gaps: give the reward_gap.json of mpo_jax.reward_gap.") from None


def relation(gaps: dict[str, float], table: Table, rate: str) -> Relation | None:
    """Over the languages that have both; None where they are fewer than `FEWEST`, or where either quantity is constant."""
    rates = {line.language: found.value for line in table.lines if (found := line.rates[rate]) is not None}
    names = [name for name in rates if name in gaps]
    gap_L, rate_L = (np.asarray([values[name] for name in names]) for values in (gaps, rates))
    if len(names) < FEWEST or np.ptp(gap_L) == 0 or np.ptp(rate_L) == 0:
        return None
    random = np.random.default_rng(0)
    drawn_DL = np.concatenate([np.arange(len(names))[None], random.integers(len(names), size=(DRAWS, len(names)))])
    x_DL, y_DL = gap_L[drawn_DL], rate_L[drawn_DL]
    varied = (np.ptp(x_DL, axis=1) > 0) & (np.ptp(y_DL, axis=1) > 0)
    x_DL, y_DL = x_DL[varied], y_DL[varied]
    from scipy import stats  # takes a second to import

    ranked = (stats.rankdata(x_DL, axis=1), stats.rankdata(y_DL, axis=1))
    spearman, pearson = _interval(_correlations(*ranked)), _interval(_correlations(x_DL, y_DL))
    return Relation(names, gap_L.tolist(), rate_L.tolist(), spearman, pearson)


def _correlations(x_DL: np.ndarray, y_DL: np.ndarray) -> np.ndarray:
    """Pearson's coefficient of each row, float64 [D]."""
    x_DL, y_DL = (z_DL - z_DL.mean(axis=1, keepdims=True) for z_DL in (x_DL, y_DL))
    return (x_DL * y_DL).sum(axis=1) / np.sqrt((x_DL**2).sum(axis=1) * (y_DL**2).sum(axis=1))


def _interval(values_D: np.ndarray) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values_D[1:], [tail, 1 - tail])
    return Interval(float(values_D[0]), float(low), float(high))
