"""How do runs compare on one quantity? Languages in rows, models in columns, the best marked where intervals say so.

Where all runs begin with the same model its figures are one column, otherwise each run has a column of its own for them.
"""

import dataclasses
from collections.abc import Sequence

from mpo_jax.reporting.facts import ByLanguage, Figure, Form, Measure, Run

BEST, ALIKE = "best", "alike"
ROUNDING = 1e-6  # relative: two runs measure the same model on other machines
MEAN = "mean of others"


@dataclasses.dataclass(frozen=True)
class Column:
    """A model. `style`: the number of its run, by which it is drawn; 0 is what a run began with."""

    name: str
    style: int
    figures: ByLanguage
    mean: Figure | None

    @property
    def result(self) -> bool:
        return self.style > 0


@dataclasses.dataclass(frozen=True)
class Cell:
    """`mark`: `BEST`, or `ALIKE` where the interval overlaps that of the best, or nothing."""

    figure: Figure | None
    mark: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    cells: Sequence[Cell]
    dominant: bool = False
    change: Figure | None = None
    mean: bool = False


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Of one measure. `changes`: whether there is a column of differences, after minus before."""

    title: str
    form: Form
    better: str
    enough: float
    columns: Sequence[Column]
    rows: Sequence[Row]
    changes: bool
    notes: Sequence[str]

    @property
    def marks(self) -> bool:
        return any(cell.mark for row in self.rows for cell in row.cells)


def compare(found: Sequence[tuple[int, str, Measure]]) -> Comparison:
    """`found`: (number of the run from 1, its name, its measure) of every run that has this measure."""
    first = found[0][2]
    columns = _columns(found)
    dominant = {name for *_, measure in found for name in measure.dominant}
    languages = dict.fromkeys(language for *_, measure in found for language in measure.languages)
    change = first.change if len(found) == 1 else {}
    rows = []
    for language in sorted(languages, key=lambda name: name not in dominant):
        cells = [Cell(column.figures.get(language)) for column in columns]
        aligned = language in dominant
        # A dominant language is to stay where it was: none is best there.
        rows.append(Row(language, cells if aligned else _marked(columns, cells, first), aligned, change.get(language)))
    means = [Cell(column.mean) for column in columns]
    name = MEAN if dominant else "mean"
    if len(languages) - len(dominant) > 1:
        rows.append(Row(name, _marked(columns, means, first), change=change.get("average"), mean=True))
    notes = [note if len(found) == 1 else f"{run}: {note}" for _, run, measure in found for note in measure.notes]
    shared = list(first.notes) if all(list(measure.notes) == list(first.notes) for *_, measure in found) else notes
    return Comparison(first.title, first.form, first.better, first.enough, columns, rows, bool(change), shared)


def comparisons(runs: Sequence[Run], kind: str) -> list[Comparison]:
    """Of all measures of a kind, "safety" or "usefulness", in the order in which they come."""
    by_key: dict[str, list[tuple[int, str, Measure]]] = {}
    for number, run in enumerate(runs, 1):
        for measure in getattr(run, kind):
            by_key.setdefault(measure.key, []).append((number, run.name, measure))
    return [compare(found) for found in by_key.values()]


def _columns(found: Sequence[tuple[int, str, Measure]]) -> list[Column]:
    before = [(run, label, measure) for _, run, measure in found for label in list(measure.of)[:-1]]
    columns = []
    if before and all(_same(measure.of[label], before[0][2].of[before[0][1]]) for _, label, measure in before):
        _, label, measure = before[0]
        columns.append(Column(label, 0, measure.of[label], measure.mean(label)))
        before = []
    for number, run, measure in found:
        for name, label, own in before:
            if name == run and own is measure:
                columns.append(Column(f"{run}, {label}", 0, measure.of[label], measure.mean(label)))
        name = measure.result if len(found) == 1 else run
        columns.append(Column(name, number, measure.of[measure.result], measure.mean(measure.result)))
    return columns


def _same(one: ByLanguage, other: ByLanguage) -> bool:
    if one.keys() != other.keys():
        return False
    pairs = [(figure.value, other[language].value) for language, figure in one.items()]
    return all(abs(x - y) <= ROUNDING * max(abs(x), abs(y)) for x, y in pairs)


def _marked(columns: Sequence[Column], cells: Sequence[Cell], measure: Measure) -> list[Cell]:
    """Among what runs made, where there are two or more; all that are beyond what is enough are as good."""
    results = [
        cell.figure.up_to(measure.enough)
        for column, cell in zip(columns, cells, strict=True)
        if column.result and cell.figure is not None
    ]
    if len(results) < 2 or not measure.better:
        return list(cells)
    best = (max if measure.better == "higher" else min)(results, key=lambda figure: figure.value)

    def mark(column: Column, cell: Cell) -> str:
        if not column.result or cell.figure is None:
            return ""
        figure = cell.figure.up_to(measure.enough)
        return BEST if figure.value == best.value else ALIKE if figure.overlaps(best) else ""

    return [Cell(cell.figure, mark(column, cell)) for column, cell in zip(columns, cells, strict=True)]
