"""Where does each mark of a drawing lie? Dots with intervals by language, points of two quantities, and curves over updates.

Positions are in percent of the drawing, so that a page can give it any width while its words keep their size.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from mpo_jax.reporting.facts import Measure, Run
from mpo_jax.reporting.scales import Axis, axis, log_axis
from mpo_jax.reporting.side_by_side import Comparison

DEPTH = 1e5  # how many times higher the top of a logarithmic axis is than its bottom, at most
POINTS = 300  # of a curve; a longer one is thinned
GOAL = "goal"  # the curve of the gap that others are pulled to
ROOM = (9.0, 5.0)  # percent of a drawing that the name of a language takes
LINE = 15  # height of one model in a language's row of dots, in pixels


@dataclasses.dataclass(frozen=True)
class Dot:
    """`style`: the number of a run, 0 for what it began with. `y` is in pixels."""

    x: float
    low: float
    high: float
    y: float
    style: int
    name: str


@dataclasses.dataclass(frozen=True)
class Dots:
    """`rows`: (language, whether it is dominant, its dots). `lines`: positions of lines across all rows, with what they mean."""

    axis: Axis
    rows: Sequence[tuple[str, bool, Sequence[Dot]]]
    height: int
    lines: Sequence[tuple[float, str]]
    legend: Sequence[tuple[int, str]]


def dots(compared: Comparison) -> Dots:
    """Of every language of a comparison, its models one below the other."""
    rows = [row for row in compared.rows if not row.mean]
    figures = [cell.figure for row in rows for cell in row.cells if cell.figure is not None]
    scale = axis([end for figure in figures for end in (figure.value, *figure.ends)], percent=compared.form == "percent")
    drawn = []
    for row in rows:
        those = []
        for i, (column, cell) in enumerate(zip(compared.columns, row.cells, strict=True)):
            if cell.figure is not None:
                low, high = map(scale.at, cell.figure.ends)
                those.append(Dot(scale.at(cell.figure.value), low, high, LINE * (i + 0.7), column.style, column.name))
        drawn.append((row.name, row.dominant, those))
    goals = [
        (cell.figure.value, f"{row.name}, {column.name}")
        for row in rows
        if row.dominant and compared.form == "nats"
        for column, cell in zip(compared.columns, row.cells, strict=True)
        if cell.figure is not None and not column.result
    ]
    lines = [(scale.at(value), name) for value, name in goals[:1]]
    legend = [(column.style, column.name) for column in compared.columns]
    return Dots(scale, drawn, round(LINE * (len(compared.columns) + 0.4)), lines, legend)


@dataclasses.dataclass(frozen=True)
class Point:
    """`labelled`: whether there is room for its language beside it."""

    x: float
    y: float  # percent from the top
    style: int
    language: str
    name: str
    labelled: bool


@dataclasses.dataclass(frozen=True)
class Scatter:
    """Every language under every model. `spearman`: the rank correlation of all points; None where one quantity is constant."""

    x: Axis
    y: Axis
    x_title: str
    y_title: str
    points: Sequence[Point]
    spearman: float | None
    legend: Sequence[tuple[int, str]]


def scatters(runs: Sequence[Run]) -> list[Scatter]:
    """Of reward gap and each measure of safety that has languages in common with it."""
    keys = dict.fromkeys(measure.key for run in runs for measure in run.safety)
    return [found for key in keys if (found := _scatter(runs, key)) is not None]


def _scatter(runs: Sequence[Run], key: str) -> Scatter | None:
    """None with fewer than three points."""
    found: list[tuple[float, float, int, str, str]] = []
    measures = [(number, run, one) for number, run in enumerate(runs, 1) for one in run.safety if one.key == key]
    for number, run, measure in measures:
        if run.gap is not None:
            those = _both(run.gap, measure, number, run.name if len(runs) > 1 else "")
            found += [one for one in those if one not in found]  # what several runs began with is there once
    if len(found) < 3:
        return None
    form = measures[0][-1].form
    x, y = axis([one[0] for one in found], padded=True), axis([one[1] for one in found], percent=form == "percent")
    points: list[Point] = []
    for gap, rate, style, language, name in found:
        at_x, at_y = x.at(gap), round(100 - y.at(rate), 2)
        near = any(one.labelled and abs(one.x - at_x) < ROOM[0] and abs(one.y - at_y) < ROOM[1] for one in points)
        points.append(Point(at_x, at_y, style, language, name, labelled=not near))
    legend = dict.fromkeys((point.style, point.name) for point in points)
    title = measures[0][-1].title
    return Scatter(x, y, "reward gap, nats per token", title, points, _spearman(found), list(legend))


def _both(gap: Measure, measure: Measure, number: int, run: str) -> list[tuple[float, float, int, str, str]]:
    found = []
    for label in gap.of:
        for language, figure in gap.of[label].items():
            other = measure.of.get(label, {}).get(language)
            if other is not None:
                result = label == gap.result
                style, name = (number, run or label) if result else (0, label)
                found.append((figure.value, other.value, style, language, name))
    return found


def _spearman(found: Sequence[tuple[float, float, int, str, str]]) -> float | None:
    x, y = ([one[i] for one in found] for i in (0, 1))
    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    from scipy import stats  # takes a second to import

    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


@dataclasses.dataclass(frozen=True)
class Curve:
    """`points`: "x,y x,y ..." in percent from the top left corner. A sparse one is drawn with a mark at each point."""

    name: str
    style: int
    points: str
    sparse: bool


@dataclasses.dataclass(frozen=True)
class Panel:
    title: str
    x: Axis
    y: Axis
    curves: Sequence[Curve]


def panels(curves: Mapping[str, Sequence[tuple[float, float]]]) -> list[Panel]:
    """The loss with its parts and the held-out loss, on a logarithmic axis, and the held-out gap of each language."""
    losses = sorted(
        (name for name in curves if name.endswith("loss") or name.startswith("loss/")),
        key=lambda name: (name == "eval_loss", name),
    )
    gaps = sorted((name for name in curves if name.startswith("eval_gap/")), key=lambda name: (name.endswith(GOAL), name))
    found = [_panel("Loss and its parts", {name: curves[name] for name in losses}, log=True)]
    found += [_panel("Reward gap on held-out rows", {name.removeprefix("eval_gap/"): curves[name] for name in gaps}, log=False)]
    return [panel for panel in found if panel is not None]


def _panel(title: str, curves: Mapping[str, Sequence[tuple[float, float]]], *, log: bool) -> Panel | None:
    finite = {name: [point for point in points if math.isfinite(point[1])] for name, points in curves.items()}
    highest = max((value for points in finite.values() for _, value in points), default=0.0)
    lowest = highest / DEPTH if log else -math.inf  # a part that begins at 0 would leave the rest no room
    kept = {name: [point for point in points if point[1] > lowest] for name, points in finite.items()}
    kept = {name: points for name, points in kept.items() if len(points) > 1}
    values = [y for points in kept.values() for _, y in points]
    y = (log_axis(values) if log else axis(values)) if values else None
    if y is None:
        return None
    last = max(step for points in kept.values() for step, _ in points)
    x = _until(last)
    drawn = []
    for i, (name, points) in enumerate(kept.items(), 1):
        every = -(-len(points) // POINTS)
        thinned = points[::-every][::-1]  # the last one is kept
        at = " ".join(f"{x.at(step):g},{100 - y.at(value):.2f}" for step, value in thinned)
        drawn.append(Curve(name, 0 if name == GOAL else i, at, len(points) <= 30))
    return Panel(title, x, y, drawn)


def _until(last: float) -> Axis:
    """From 0 to exactly this update."""
    whole = axis([0.0, last])
    stretch = whole.high / last
    return Axis(0.0, last, [(round(at * stretch, 2), label) for at, label in whole.ticks if at * stretch <= 100])
