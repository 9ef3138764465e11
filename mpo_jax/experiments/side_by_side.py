"""How do the methods of a study compare, on one page? Its results as what `reporting` shows, a method where a run would be."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpo_jax.experiments.results import BASE, Estimate, Run, estimates, methods_of, noises_of, over_targets
from mpo_jax.experiments.world import DOMINANT, LANGUAGES, Noise
from mpo_jax.reporting import facts
from mpo_jax.reporting.facts import BEFORE, Better, Figure, Form, Measure
from mpo_jax.reporting.kept_json import read_json, understood

AFTER = "after"
ABOUT = "The small world, a test bed: no evidence about real models. Intervals: Student's t over seeds, cut where a share ends."
NAME = "results.json"
Shown = tuple[str, str, Form, Better]  # name among a run's values, title, form, which is better

GAP: Shown = ("gap", "Reward gap", "nats", "higher")
SAFETY: list[Shown] = [
    ("writes_refusal", "Unsafe requests refused, written", "percent", "higher"),
    ("refuses", "Unsafe requests refused, likelihood", "percent", "higher"),
]
USEFULNESS: list[Shown] = [("answers", "Safe requests answered, likelihood", "percent", "higher")]


def read_study(folder: Path) -> list[facts.Run]:
    """Of the results.json of a study; none where there is no such file. Errors: a file of another shape."""
    kept: Any = read_json(folder / NAME)
    if kept is None:
        return []
    with understood(folder / NAME):
        return shown([Run(**{**run, "noise": Noise(**run["noise"])}) for run in kept["runs"]])


def shown(runs: Sequence[Run]) -> list[facts.Run]:
    """Every method without noise, beside the base model."""
    noise = noises_of(runs)[0]
    seeds = len({run.seed for run in runs})
    found = []
    for method in methods_of(runs):
        if method != BASE:
            (rate, *_) = {run.learning_rate for run in runs if run.method == method}
            settings = {"method": method, "learning rate": f"{rate:g}, chosen on a seed that is not shown", "seeds": f"{seeds}"}
            gap, *safety = (_measure(runs, method, noise, of) for of in (GAP, *SAFETY))
            usefulness = [_measure(runs, method, noise, of) for of in USEFULNESS]
            found.append(facts.Run(method, settings=settings, gap=gap, safety=safety, usefulness=usefulness))
    return found


def _measure(runs: Sequence[Run], method: str, noise: Noise, of: Shown) -> Measure:
    name, title, form, better = of

    def at(key: str):
        return lambda values: values[key]

    labels = {BEFORE: BASE, AFTER: method}
    by_language = {
        label: {language: _figure(estimates(runs, one, noise, at(f"{name}/{language}")), form) for language in LANGUAGES}
        for label, one in labels.items()
    }
    mean = {
        label: _figure(estimates(runs, one, noise, lambda values: over_targets(values, name)), form)
        for label, one in labels.items()
    }
    enough = by_language[BEFORE][DOMINANT].value if of == GAP else math.inf
    notes = [ABOUT] if of == GAP else []
    return Measure(f"world {name}", title, form, better, by_language, mean, dominant=(DOMINANT,), enough=enough, notes=notes)


def _figure(estimate: Estimate, form: Form) -> Figure:
    """Without an interval where there is one seed."""
    if math.isnan(estimate.half):
        return Figure(estimate.mean)
    low, high = estimate.mean - estimate.half, estimate.mean + estimate.half
    return Figure(estimate.mean, max(low, 0.0), min(high, 1.0)) if form == "percent" else Figure(estimate.mean, low, high)
