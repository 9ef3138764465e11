"""Which settings are best? The runs of a grid, one after the other in one process, and a table of their held-out results.

Runs that differ only in numbers of the loss or in the peak learning rate share model, data, reference and compiled programs.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpo_jax.devices import processes
from mpo_jax.errors import Diverged, InputError
from mpo_jax.evaluation.gap_table import GapLine, GapTable, bars
from mpo_jax.files.json_files import write_json
from mpo_jax.files.paths import path_of, remove
from mpo_jax.telemetry.plots import plot_gaps
from mpo_jax.telemetry.writers import read_metrics
from mpo_jax.training.assemble import Assembly, assemble
from mpo_jax.training.config import TrainConfig, parse
from mpo_jax.training.loop import train
from mpo_jax.training.run_identity import FREE
from mpo_jax.training.step_arguments import what_compiles

DONE = "reward_gap.json"  # what a run writes when it has been measured


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of the grid: `settings` are those of the grid, as they were written."""

    settings: dict[str, str]
    config: TrainConfig

    @property
    def name(self) -> str:
        return ",".join(f"{path}={value}" for path, value in self.settings.items())

    @property
    def folder(self) -> Path:
        return path_of(self.config.output)


class Shared:
    """Gives a point what the point before it had, if they differ only in numbers; otherwise frees that first."""

    def __init__(self) -> None:
        self._of: dict[str, Any] = {}
        self._assembly: Assembly | None = None

    def __call__(self, config: TrainConfig) -> Assembly:
        if self._assembly is None or what_compiles(config) != self._of:
            self._assembly = None
            self._assembly = assemble(config, keep_weights=True)
            self._of = what_compiles(config)
        return self._assembly


def sweep(points: Sequence[Point]) -> dict[str, Any]:
    """Runs the points that are not finished; then writes the table, `sweep.json` and `sweep.png`. A point whose loss is not
    finite is reported as such. Errors: those of `train`."""
    shared, diverged = Shared(), {}
    for i, point in enumerate(points, start=1):
        if (point.folder / DONE).is_file():
            processes.say(f"point {i} of {len(points)}, {point.name}: already finished")
            continue
        processes.say(f"\npoint {i} of {len(points)}, {point.name}")
        try:
            train(point.config, shared)
        except Diverged as error:
            processes.say(f"point {i} of {len(points)}, {point.name}: {error}")
            diverged[point.name] = str(error)
        else:
            processes.on_first(lambda: remove(point.folder / "checkpoints"))  # noqa: B023
    return processes.on_first(lambda: _report(points, diverged))


def parse_points(argv: list[str]) -> list[Point]:
    """All combinations of the grid, ordered so that points with the same compiled programs are neighbours. Errors: those of
    `config.parse` for any point; no grid, or one that cannot be read."""
    grids = [arg.removeprefix("--grid=") for arg in argv if arg.startswith("--grid=")]
    if len(grids) != 1:
        given = "More than one grid was" if grids else "No grid was"
        raise InputError(f'{given} given: write one, as in --grid="loss.beta=0.5,1 optim.peak_lr=3e-7,6e-7".')
    grid, rest = parse_grid(grids[0]), [arg for arg in argv if not arg.startswith("--grid=")]
    base = parse(rest)
    points = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        config = parse([*rest, *(f"--config.{path}={value}" for path, value in settings.items())])
        points.append(Point(settings, config))
    keys = [what_compiles(point.config) for point in points]
    order = sorted(range(len(points)), key=lambda i: keys.index(keys[i]))
    return [dataclasses.replace(points[i], config=_placed(points[i], base)) for i in order]


def parse_grid(text: str) -> dict[str, list[str]]:
    """Path -> values, as written."""
    example = 'write FIELD=VALUE,VALUE with spaces between fields, as in --grid="loss.beta=0.5,1 optim.peak_lr=3e-7,6e-7".'
    grid: dict[str, list[str]] = {}
    for part in text.split():
        path, equals, values = part.partition("=")
        path = path.removeprefix("--").removeprefix("config.")
        listed = values.split(",")
        if not (path and equals and all(listed)):
            raise InputError(f"--grid: '{part}' is not a field with values: {example}")
        if path in grid or len(set(listed)) < len(listed):
            raise InputError(f"--grid: '{part}' repeats a field or a value: give each once.")
        if path.partition(".")[0] in FREE:
            raise InputError(f"--grid: {path} does not change what is learnt: set it for all points, as --config.{path}=VALUE.")
        if any("/" in value for value in listed):
            raise InputError(
                f"--grid: '{part}' has a value with '/', which cannot be part of a folder's name: run one sweep for each."
            )
        grid[path] = listed
    if not grid:
        raise InputError(f"--grid is empty: {example}")
    return grid


def _placed(point: Point, base: TrainConfig) -> TrainConfig:
    """The point's config: a folder of its own, resumed if it was begun; no export; one store of reference scores for all."""
    config, output = point.config, path_of(base.output)
    store = config.reference_store or str(output / "reference") if config.reference == "cached" else None
    return dataclasses.replace(
        config,
        output=str(output / point.name),
        reference_store=store,
        checkpoint=dataclasses.replace(config.checkpoint, resume="auto"),
        export=dataclasses.replace(config.export, enabled=False),
    )


def _report(points: Sequence[Point], diverged: dict[str, str]) -> dict[str, Any]:
    """Prints the table of all points, and keeps it in the folder above theirs."""
    finished = {point.name: _after(point.folder) for point in points if point.name not in diverged}
    lines = []
    for point in points:
        if point.name in diverged:
            lines.append({"settings": point.settings, "diverged": diverged[point.name]})
            continue
        gaps = {line.name: line.mean for line in finished[point.name]}
        targets = [gap for name, gap in gaps.items() if not name.endswith("(dominant)")]
        held_out = [line["eval_loss"] for line in read_metrics(point.folder / "metrics.jsonl") if "eval_loss" in line]
        loss = held_out[-1] if held_out else math.nan
        lines.append({"settings": point.settings, "gap of the targets": sum(targets) / len(targets), "loss": loss, "gaps": gaps})
    folder = points[0].folder.parent
    print(f"\n{_table(lines)}\n")
    write_json(folder / "sweep.json", lines)
    if finished:
        before = json.loads((folder / next(iter(finished)) / DONE).read_text(encoding="utf-8"))["before"]
        plot_gaps(bars({"before": [GapLine(**line) for line in before], **finished}), folder / "sweep.png")
    print(f"table and plot: {folder / 'sweep.json'} and {folder / 'sweep.png'}")
    return {"points": lines}


def _after(folder: Path) -> GapTable:
    return [GapLine(**line) for line in json.loads((folder / DONE).read_text(encoding="utf-8"))["after"]]


def _table(lines: Sequence[dict[str, Any]]) -> str:
    """Reward gaps after training, nats per token, and the loss on held-out rows: one row per point."""
    languages = next((list(line["gaps"]) for line in lines if "gaps" in line), [])
    rows = [[*lines[0]["settings"], "mean of targets", *languages, "held-out loss"]]
    for line in lines:
        numbers = [line["gap of the targets"], *line["gaps"].values()] if "gaps" in line else []
        cells = [f"{x:+.3f}" for x in numbers] + [f"{line['loss']:.4g}"] if numbers else ["not finite"]
        rows.append([*line["settings"].values(), *cells])
    widths = [max(len(row[k]) for row in rows if k < len(row)) for k in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=False)) for row in rows)
