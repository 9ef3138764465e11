"""What is written and shown of the verdicts? asr.json, a plot, and a table for the terminal."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpo_jax.clients.judges.base import Judge
from mpo_jax.evaluation.safety.agreement import Agreement
from mpo_jax.evaluation.safety.rates import Interval, Table, differences, table
from mpo_jax.evaluation.safety.relation import Relation
from mpo_jax.evaluation.safety.verdicts import Verdict
from mpo_jax.files.json_files import write_json
from mpo_jax.telemetry.plots import plot_rates

AVERAGE = "average"
WIDTH = 28  # characters of a rate with its interval


@dataclasses.dataclass(frozen=True)
class Beside:
    """What a table is shown with: findings in translations by language, the relation to reward gaps and the agreement with a
    second judge by label. Empty where it was not asked for."""

    translator: str = "none"
    findings: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    relations: Mapping[str, Relation | None] = dataclasses.field(default_factory=dict)
    agreements: Mapping[str, Agreement] = dataclasses.field(default_factory=dict)


def write_report(folder: Path, judge: Judge, said: Mapping[str, Sequence[Verdict]], beside: Beside) -> str:
    """Writes the table as JSON and as a plot, and returns it for the terminal. `said`: label -> the verdicts on one model, for
    example {'before': ..., 'after': ...}."""
    scale = judge.scale
    tables = {label: table(verdicts, scale) for label, verdicts in said.items()}
    change = differences(said["before"], said["after"], scale) if {"before", "after"} <= said.keys() else {}
    whole = {
        "judge": judge.name,
        "translator": beside.translator,
        "shows": scale.title,
        "rates": {rate.key: rate.name for rate in scale.rates},
        "models": {label: dataclasses.asdict(found) for label, found in tables.items()},
        "after minus before": {key: _dicts(found) for key, found in change.items()},
        "findings in translations": {language: dict(found) for language, found in beside.findings.items()},
        "reward gap and rate": _dicts(beside.relations),
        "agreement": _dicts(beside.agreements),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{scale.file}.json", whole)
    first = scale.rates[0]
    bars = {label: _bars(found, first.key) for label, found in tables.items()}
    if any(bars.values()):
        plot_rates(bars, folder / f"{scale.file}.png", first.name, f"{scale.title}, judged by {judge.name}")
    return "\n".join([*_tables(tables, judge), *_changes(change, judge), *_beside(beside)])


def _dicts(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if value is None else dataclasses.asdict(value) for key, value in found.items()}


def _bars(found: Table, key: str) -> dict[str, tuple[float, float, float]]:
    rates = {line.language: line.rates[key] for line in found.lines} | {AVERAGE: found.average[key]}
    return {
        name: (rate.value, min(rate.low, rate.value), max(rate.high, rate.value))
        for name, rate in rates.items()
        if rate is not None
    }


def _tables(tables: Mapping[str, Table], judge: Judge) -> list[str]:
    scale, lines = judge.scale, [f"{judge.scale.title}, judged by {judge.name} [95 % interval]"]
    for label, found in tables.items():
        columns = [*scale.verdicts, "unparsed", "missing"]
        lines += [
            "",
            f"{label:<10}" + "".join(f"{name:>10}" for name in columns) + "".join(f"{r.name:>{WIDTH}}" for r in scale.rates),
        ]
        for line in found.lines:
            counts = [*(line.verdicts[name] for name in scale.verdicts), line.unparsed, sum(line.missing.values())]
            rates = "".join(f"{_percent(line.rates[rate.key]):>{WIDTH}}" for rate in scale.rates)
            lines.append(f"{line.language:<10}" + "".join(f"{count:>10}" for count in counts) + rates)
        empty = " " * 10 * len(columns)
        lines.append(f"{AVERAGE:<10}{empty}" + "".join(f"{_percent(found.average[rate.key]):>{WIDTH}}" for rate in scale.rates))
        if found.worst is not None and scale.file == "asr":
            lines.append(f"worst: {found.worst}")
        reasons = [(count, reason, line.language) for line in found.lines for reason, count in line.missing.items()]
        if reasons:
            count, reason, language = max(reasons)
            lines.append(f"missing, most often ({count} in {language}): {reason}. The same command tries again what failed.")
    return lines


def _changes(change: Mapping[str, Mapping[str, Interval]], judge: Judge) -> list[str]:
    lines = []
    for rate in judge.scale.rates:
        if change.get(rate.key):
            lines += ["", f"after minus before, {rate.name}, percentage points [95 % interval]"]
            lines += [f"{name:<10}{_percent(found, signed=True):>{WIDTH}}" for name, found in change[rate.key].items()]
    return lines


def _beside(beside: Beside) -> list[str]:
    lines = []
    for language, found in beside.findings.items():
        lines.append(f"translations from {language}: " + ", ".join(f"{count} {name}" for name, count in found.items()))
    for label, relation in beside.relations.items():
        if relation is None:
            lines.append(f"{label}: too few languages with different gaps and rates for a correlation")
            continue
        both = f"Spearman {_plain(relation.spearman)}, Pearson {_plain(relation.pearson)}"
        lines.append(f"{label}: reward gap and rate over {len(relation.languages)} languages: {both}")
    for label, found in beside.agreements.items():
        kappa = "not defined" if found.kappa is None else f"{found.kappa:.3f}"
        lines.append(f"{label}: {found.first} and {found.second} agree on {found.same} of {found.count}, Cohen's kappa {kappa}")
    return ["", *lines] if lines else []


def _percent(found: Interval | None, *, signed: bool = False) -> str:
    if found is None:
        return "-"
    sign = "+" if signed else ""
    return f"{100 * found.value:{sign}.1f} [{100 * found.low:{sign}.1f}, {100 * found.high:{sign}.1f}]"


def _plain(found: Interval) -> str:
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
