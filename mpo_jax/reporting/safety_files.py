"""How is what a judge said read? asr.json and refusals.json, as `python -m mpo_jax.safety` writes them.

Of their content these parts are read:

    "judge": name                "shows": title                 "rates": {key: name of the rate}
    "models": {label: {"lines": [{"language", "unparsed", "missing": {reason: count}, "rates": {key: INTERVAL or null}}],
                       "average": {key: INTERVAL or null}}}
    "after minus before": {key: {language or "average": INTERVAL}}
    "reward gap and rate": {label: {"languages": [...], "spearman": INTERVAL, "pearson": INTERVAL} or null}

INTERVAL is {"value", "low", "high"}, shares between 0 and 1 for rates.
"""

from pathlib import Path
from typing import Any

from mpo_jax.reporting.facts import Better, Figure, Measure
from mpo_jax.reporting.kept_json import read_json, understood

FILES: dict[str, Better] = {"asr.json": "lower", "refusals.json": "higher"}


def read_safety(folder: Path) -> list[Measure]:
    """Of the folder, or of `safety` in it. Errors: a file of another shape."""
    found = []
    for name, better in FILES.items():
        for path in (folder / name, folder / "safety" / name):
            kept = read_json(path)
            if kept is not None:
                with understood(path):
                    notes = [
                        f"{kept['shows']}, judged by {kept['judge']}.",
                        *_unread(kept["models"]),
                        *_related(kept["reward gap and rate"]),
                    ]
                    for key, title in kept["rates"].items():
                        found.append(_measure(kept, key, title, better, notes))
                        notes = []  # they are said once, with the first rate, to which correlations belong
    return found


def _measure(kept: Any, key: str, title: str, better: Better, notes: list[str]) -> Measure:
    models = kept["models"]
    of = {
        label: {line["language"]: _figure(line["rates"][key]) for line in found["lines"] if line["rates"][key] is not None}
        for label, found in models.items()
    }
    average = {label: _figure(found["average"][key]) for label, found in models.items() if found["average"][key] is not None}
    change = {language: _figure(one) for language, one in kept["after minus before"].get(key, {}).items()}
    return Measure(f"{key}, {kept['judge']}", title, "percent", better, of, average, change, notes=notes)


def _figure(interval: Any) -> Figure:
    return Figure(float(interval["value"]), float(interval["low"]), float(interval["high"]))


def _unread(models: Any) -> list[str]:
    """Answers that are in no rate."""
    notes = []
    for label, found in models.items():
        unparsed = sum(line["unparsed"] for line in found["lines"])
        missing = sum(sum(line["missing"].values()) for line in found["lines"])
        if unparsed or missing:
            notes.append(f"{label}: in no rate are {unparsed} unparsed and {missing} missing verdicts.")
    return notes


def _related(relations: Any) -> list[str]:
    notes = []
    for label, one in relations.items():
        if one is not None:
            spearman, pearson = (
                f"{one[name]['value']:+.2f} [{one[name]['low']:+.2f}, {one[name]['high']:+.2f}]"
                for name in ("spearman", "pearson")
            )
            notes.append(
                f"{label}: gap and rate over {len(one['languages'])} languages: Spearman {spearman}, Pearson {pearson}.".replace(
                    "-", "−"
                )
            )
    return notes
