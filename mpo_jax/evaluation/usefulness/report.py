"""How are scores shown? As JSON, as a table, and as bars with intervals, before beside after."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpo_jax.evaluation.usefulness.scores import Items, Score, difference
from mpo_jax.files.json_files import write_json
from mpo_jax.telemetry.plots import figure, save

Key = tuple[str, str, str, str]  # see `Score.key`


@dataclasses.dataclass(frozen=True)
class Report:
    """`scores`: label of a model ("before") -> its scores, which all models have the same of; `items`: likewise, by key."""

    settings: dict[str, Any]
    scores: dict[str, list[Score]]
    items: dict[str, dict[Key, Items]]

    def changes(self) -> dict[Key, dict[str, Any]]:
        """The last model minus the first, of the items that both have; none of a figure that is no mean, or with one model."""
        if len(self.scores) < 2:
            return {}
        first, *_, last = self.items.values()
        return {key: difference(items, last[key]) for key, items in first.items() if key in last}

    def write(self, folder: Path, name: str) -> None:
        """NAME.json and NAME.png."""
        names = ("task", "language", "metric", "part")
        told = [dict(zip(names, key, strict=True)) | change for key, change in self.changes().items()]
        listed = {label: [dataclasses.asdict(score) for score in scores] for label, scores in self.scores.items()}
        write_json(folder / f"{name}.json", {"settings": self.settings, "scores": listed, "changes": told})
        plot(self.scores, folder / f"{name}.png")

    def table(self) -> str:
        """The figures to look at, and those of parts, a line each."""
        changes, lines = self.changes(), []
        by_key = [{score.key: score for score in scores} for scores in self.scores.values()]
        header = ["task", "language", "metric", *self.scores, *(["difference"] if changes else [])]
        for score in next(iter(self.scores.values())):
            if score.main or score.part:
                cells = [_cell(scores.get(score.key)) for scores in by_key]
                cells += [_change(changes.get(score.key))] if changes else []
                lines.append([score.task, score.language or "-", (score.part and f"  {score.part}") or score.metric, *cells])
        widths = [max(len(row[i]) for row in (header, *lines)) for i in range(len(header))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (header, *lines)
        )


def plot(scores: Mapping[str, Sequence[Score]], path: Path) -> None:
    """A panel for each task, a group of bars for each language."""
    main = {label: [score for score in those if score.main and score.value is not None] for label, those in scores.items()}
    tasks = list(dict.fromkeys(score.task for those in main.values() for score in those))
    if not tasks:
        return
    languages = {
        task: list(dict.fromkeys(s.language for those in main.values() for s in those if s.task == task)) for task in tasks
    }
    drawn, panels = figure(sum(max(3.0, 0.8 * len(names) + 1.5) for names in languages.values()), 4, columns=len(tasks))
    for axes, task in zip([panels] if len(tasks) == 1 else panels, tasks, strict=True):
        width = 0.8 / len(main)
        for i, (label, those) in enumerate(main.items()):
            own = [score for score in those if score.task == task]
            at = [languages[task].index(score.language) + (i - (len(main) - 1) / 2) * width for score in own]
            axes.bar(at, [score.value for score in own], width * 0.95, yerr=_ends(own), capsize=3, label=label)
        axes.set_xticks(range(len(languages[task])), [name or task for name in languages[task]])
        axes.set(title=task, ylabel=next(score.metric for those in main.values() for score in those if score.task == task))
    if len(main) > 1:
        handles, labels = drawn.axes[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside right upper", fontsize=8)
    save(drawn, path)


def _ends(scores: Sequence[Score]) -> list[list[float]]:
    """How far the intervals reach below and above; 0 where there is none."""
    known = [(s.value or 0.0, s.low, s.high) for s in scores]
    below = [0.0 if low is None else max(value - low, 0.0) for value, low, _ in known]
    return [below, [0.0 if high is None else max(high - value, 0.0) for value, _, high in known]]


def _cell(score: Score | None) -> str:
    if score is None:
        return "-"
    text = _number(score.value)
    if score.low is not None and score.high is not None:
        text += f" [{_number(score.low)}, {_number(score.high)}]"
    rest = [f"{count} {what}" for count, what in ((score.unparsed, "unparsed"), (score.errors, "errors")) if count]
    return f"{text}, n={score.n}" + "".join(f", {one}" for one in rest)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


def _change(change: dict[str, Any] | None) -> str:
    if change is None or change["value"] is None:
        return "-"
    text = f"{change['value']:+.3f}"
    return text if change.get("low") is None else f"{text} [{change['low']:+.3f}, {change['high']:+.3f}]"
