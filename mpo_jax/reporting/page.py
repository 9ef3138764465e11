"""How does the page come from what is known of runs? By templates: every text is escaped, and nothing on it can run."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpo_jax.files.paths import write
from mpo_jax.reporting.drawings import dots, panels, scatters
from mpo_jax.reporting.facts import Figure, Form, Run
from mpo_jax.reporting.run_folder import read_run
from mpo_jax.reporting.side_by_side import Cell, Comparison, compare, comparisons

if TYPE_CHECKING:
    from jinja2 import Environment

NAME = "report.html"
COLOURS, SHAPES = 8, 4
PERCENT = "\u202f%"
DIGITS = {"nats": 3, "plain": 3, "percent": 1}


@dataclasses.dataclass(frozen=True)
class Glance:
    """One quantity in a line: its mean over languages, or its only figure, under each model."""

    title: str
    form: Form
    better: str
    names: Sequence[str]
    cells: Sequence[Cell]
    worst: Sequence[tuple[str, Figure] | None]


def write_page_of_run(folder: Path, name: str) -> Path:
    """The page of a run's folder, without texts, in that folder. Errors: those of `read_run`."""
    path = folder / NAME
    write_page(path, [read_run(folder, name, texts=False)])
    return path


def write_page(path: Path, runs: Sequence[Run]) -> None:
    write(path, render(runs).encode("utf-8", "backslashreplace"))  # a text of a model may hold half a character


def render(runs: Sequence[Run]) -> str:
    """The page, HTML. `runs`: at least one."""
    gaps = [(number, run.name, run.gap) for number, run in enumerate(runs, 1) if run.gap is not None]
    gap = compare(gaps) if gaps else None
    safety, usefulness = comparisons(runs, "safety"), comparisons(runs, "usefulness")
    every = ([gap] if gap else []) + safety + usefulness
    settings = list(dict.fromkeys(key for run in runs for key in run.settings))
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            runs=runs,
            style=(Path(__file__).parent / "style.css").read_text(encoding="utf-8"),
            gap=gap,
            safety=safety,
            usefulness=usefulness,
            glances=[_glance(one) for one in every],
            relations=scatters(runs),
            settings=settings,
            differs={key for key in settings if len({run.settings.get(key, "") for run in runs}) > 1},
            curves=[(run.name, panels(run.curves)) for run in runs if run.curves],
            audits=[(run.name, run.audit, _found(run)) for run in runs if run.audit],
        )
    )


def _glance(compared: Comparison) -> Glance:
    means = [row for row in compared.rows if row.mean]
    row = means[0] if means else compared.rows[-1]
    worst = []
    for i in range(len(compared.columns)):
        known = [(one.name, one.cells[i].figure) for one in compared.rows if not one.mean and not one.dominant]
        figures = [(name, figure) for name, figure in known if figure is not None]
        pick = max if compared.better == "lower" else min
        worst.append(pick(figures, key=lambda pair: pair[1].value) if len(figures) > 1 and compared.better else None)
    names = [column.name for column in compared.columns]
    return Glance(compared.title, compared.form, compared.better, names, row.cells, worst)


def _found(run: Run) -> tuple[list[str], list[str]]:
    """The counts of an audit that are not 0 everywhere, and those that are."""
    names = list(dict.fromkeys(name for counts in run.audit.values() for name in counts if name != "rows"))
    there = [name for name in names if any(counts.get(name) for counts in run.audit.values())]
    return there, [name for name in names if name not in there]


@functools.cache
def environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # not needed by a run before its end

    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "shown": shown,
        "interval": interval,
        "colour": lambda style: f"s{(style - 1) % COLOURS + 1 if style else 0}",
        "shape": lambda style: style % SHAPES if style else "hollow",
        "words": lambda name: name.replace("_", " "),
        "dots": dots,
        "about": about,
        "changed": lambda value, form: shown(value, form, signed=True).removesuffix(PERCENT),
        "dashes": lambda style: f"d{(style - 1) // COLOURS % 3}" if style else "d1",
    }
    return found


def shown(value: float, form: Form, *, signed: bool = False) -> str:
    """A number as it is read: shares in per cent, gaps with their sign."""
    sign, digits = "+" if signed or form == "nats" else "", DIGITS[form]
    text = f"{100 * value:{sign}.{digits}f}{PERCENT}" if form == "percent" else f"{value:{sign}.{digits}f}"
    return text.replace("-", "−")


def interval(figure: Figure, form: Form, *, signed: bool = False) -> str:
    """[low, high], or nothing."""
    if figure.low is None or figure.high is None:
        return ""
    low, high = (shown(end, form, signed=signed).removesuffix(PERCENT) for end in (figure.low, figure.high))
    return f"[{low}, {high}]"


def about(compared: Comparison) -> str:
    """The unit, and which way is good."""
    parts = ["nats per token"] if compared.form == "nats" else []
    up_to = f", up to the dominant gap before, {shown(compared.enough, compared.form)}" if math.isfinite(compared.enough) else ""
    return ", ".join([*parts, *([f"{compared.better} is better{up_to}"] if compared.better else [])])
