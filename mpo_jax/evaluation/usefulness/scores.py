"""How good is a model on a task, and how certain is that? Means with 95 % intervals, before and after.

What was measured are items, which come in clusters: the two turns of a question are not independent of each other. The standard
error is that of a mean of clustered items, sqrt(G / (G - 1) * sum_g (sum_i (x_gi - mean))^2) / n for n items in G clusters, which
is the usual one where each item is a cluster. Intervals are Student's with G - 1 degrees of freedom, or Wilson's where each
cluster is one item, either right or wrong; `bootstrapped` has a bootstrap's.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from mpo_jax.evaluation.proportion import CONFIDENCE, wilson

DRAWS = 2000  # of the bootstrap

Item = tuple[str, str]  # the name of its cluster, and its own in there
Items = Mapping[Item, float]


@dataclasses.dataclass(frozen=True)
class Score:
    """A figure of a task in a language ("" = of no particular one). `part`: of which items it is, "" = of all. `n` items were
    measured; of `unparsed` more nothing could be read, and `errors` more were never answered. `main`: the figure to look at.
    `better`: which values are, "higher" or "lower".
    Without an interval `stderr`, `low` and `high` are None."""

    task: str
    language: str
    metric: str
    value: float | None
    n: int
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    part: str = ""
    main: bool = True
    better: str = "higher"
    unparsed: int = 0
    errors: int = 0

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.task, self.language, self.metric, self.part


def mean_of(items: Items, *, share: bool = True) -> dict[str, Any]:
    """`value`, `n`, `stderr`, `low` and `high` of a `Score`. No item, no value. One cluster, or equal values that are neither
    right nor wrong, tell no spread: then there is no interval. `share`: whether 1 means right, and 0 wrong."""
    n = len(items)
    if not n:
        return {"value": None, "n": 0}
    values = np.asarray([*items.values()], np.float64)
    mean = float(values.mean())
    sums: dict[str, float] = {}
    for (cluster, _), value in items.items():
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    G = len(sums)
    if G == 1:
        return {"value": mean, "n": n}
    stderr = math.sqrt(G / (G - 1) * sum(total**2 for total in sums.values())) / n
    if share and n == G and {0.0, 1.0} >= {*values.tolist()}:
        low, high = wilson(round(mean * n), n)
    elif stderr:
        low, high = _student(mean, stderr, G - 1)
    else:
        return {"value": mean, "n": n}
    return {"value": mean, "n": n, "stderr": stderr, "low": low, "high": high}


def bootstrapped(items: Items) -> dict[str, Any]:
    """`mean_of` items that are each a cluster of their own, with the interval of a bootstrap over them: percentiles of `DRAWS`
    resamples, which lie between the smallest and the largest item. The same items give the same interval."""
    found = mean_of(items, share=False)
    if "low" not in found:
        return found
    from scipy import stats  # takes a second to import

    settings = {"n_resamples": DRAWS, "batch": 100, "confidence_level": CONFIDENCE, "method": "percentile"}
    values = np.asarray([*items.values()], np.float64)
    low, high = stats.bootstrap((values,), np.mean, rng=np.random.default_rng(0), **settings).confidence_interval
    return {**found, "low": float(low), "high": float(high)}


def difference(before: Items, after: Items) -> dict[str, Any]:
    """`mean_of` after minus before, of the items that both have."""
    return mean_of({item: after[item] - value for item, value in before.items() if item in after}, share=False)


def _student(mean: float, stderr: float, freedom: float) -> tuple[float, float]:
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * stderr
    return mean - half, mean + half


def by_normal(value: float, stderr: float | None, n: int) -> dict[str, Any]:
    """Of a figure that is no mean of items, from the standard error that the harness gives."""
    if stderr is None or not math.isfinite(stderr):
        return {"value": value, "n": n}
    low, high = _student(value, stderr, math.inf)
    return {"value": value, "n": n, "stderr": stderr, "low": low, "high": high}


def is_mean(value: float, items: Collection[float]) -> bool:
    return bool(items) and math.isclose(value, float(np.mean([*items])), rel_tol=1e-6, abs_tol=1e-9)
