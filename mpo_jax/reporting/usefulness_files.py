"""How is what a model is good for read? utility.json, mt_bench.json and x_alpaca_eval.json of `python -m mpo_jax.utility`.

Of each, these parts are read; scores with `main` false are not shown.

    "scores": {label: [{"task", "language", "metric", "part", "main", "better", "value", "low", "high", "n", "unparsed",
                        "errors"}]}
    "changes": [{"task", "language", "metric", "part", "value", "low", "high"}]     after minus before; low may be missing
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpo_jax.reporting.facts import ByLanguage, Figure, Measure
from mpo_jax.reporting.kept_json import read_json, understood

FILES = ("utility.json", "mt_bench.json", "x_alpaca_eval.json")
NO_LANGUAGE = "all"


def read_usefulness(folder: Path) -> list[Measure]:
    """Of the folder, or of `utility` in it, a measure for each task; the first file that has a task counts. Errors: a file of
    another shape."""
    found: dict[str, Measure] = {}
    for path in (place / name for name in FILES for place in (folder, folder / "utility")):
        kept = read_json(path)
        if kept is not None:
            with understood(path):
                scores = [score for those in kept["scores"].values() for score in those if _shown(score)]
                for task, metric in dict.fromkeys((score["task"], score["metric"]) for score in scores):
                    measure = _measure(kept, task, metric)
                    found.setdefault(measure.key, measure)
    return list(found.values())


def perplexity(kept: Mapping[str, Mapping[str, float]], dominant: Sequence[str]) -> Measure:
    """label -> language -> perplexity of the texts of `data.texts`."""
    of = {
        label: {language: Figure(float(value)) for language, value in by_language.items()} for label, by_language in kept.items()
    }
    return Measure("perplexity", "Perplexity of texts", "plain", "lower", of, dominant=dominant)


def _measure(kept: Any, task: str, metric: str) -> Measure:
    def of(scores: Any) -> ByLanguage:
        those = [one for one in scores if (one["task"], one["metric"], one["part"]) == (task, metric, "")]
        return {one["language"] or NO_LANGUAGE: _figure(one) for one in those if one["value"] is not None}

    mine = {label: [score for score in scores if _shown(score)] for label, scores in kept["scores"].items()}
    notes = []
    for label, scores in mine.items():
        unread = sum(one["unparsed"] + one["errors"] for one in scores if (one["task"], one["metric"]) == (task, metric))
        if unread:
            notes.append(f"{label}: in no score are answers that could not be read or are missing, {unread}.")
    found = {label: of(scores) for label, scores in mine.items()}
    shares = all(0 <= figure.value <= 1 for figures in found.values() for figure in figures.values())
    form = "percent" if shares else "plain"
    better = next(one["better"] for scores in mine.values() for one in scores if (one["task"], one["metric"]) == (task, metric))
    return Measure(f"{task}, {metric}", f"{task}: {metric}", form, better, found, change=of(kept["changes"]), notes=notes)


def _shown(score: Any) -> bool:
    return bool(score["main"]) and not score["part"]


def _figure(one: Any) -> Figure:
    ends = (None if one.get(end) is None else float(one[end]) for end in ("low", "high"))
    return Figure(float(one["value"]), *ends)
