"""What does a run look like? Plots as PNG files."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpo_jax.files.paths import write

Bars = dict[str, tuple[float, float, float]]  # name of a bar -> its height, and the ends of its interval


def figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """A figure of this size in inches and its axes, an array of them where there are several columns."""
    return _pyplot().subplots(1, columns, figsize=(width, height), layout="constrained")


def panels(rows: int, columns: int, size: float) -> tuple[Any, Any]:
    """A figure of so many panels of this size in inches, and their axes in rows."""
    return _pyplot().subplots(rows, columns, figsize=(size * columns, size * rows), layout="constrained", squeeze=False)


def _pyplot() -> Any:
    import matplotlib  # slow to import, and not needed by a run without plots

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, path: Path) -> None:
    """Writes the figure to a PNG file and closes it."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    write(path, drawn.getvalue())
    _pyplot().close(figure)


def plot_losses(lines: Sequence[dict[str, float]], path: Path) -> None:
    """The loss and its parts over the updates, on a logarithmic axis, with the held-out loss where there is one."""
    drawn, axes = figure(8, 4.5)
    parts = sorted({name for line in lines for name in line if name.startswith("loss/")})
    for name, style in {"loss": "-", **dict.fromkeys(parts, "--"), "eval_loss": "o-"}.items():
        points = [(line["step"], line[name]) for line in lines if line.get(name, 0) > 0]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=name, markersize=4)
    axes.set(xlabel="update", ylabel="loss", yscale="log", title="Loss and its parts")
    axes.legend()
    save(drawn, path)


def plot_gaps(tables: dict[str, Bars], path: Path, what: str = "length-normalised reward gap, nats per token") -> None:
    """Bars of the mean reward gap per language with confidence intervals, one group for each of `tables` (whose keys are the
    legend, for example 'before' and 'after'), with a line at the gap of the first language, the dominant one."""
    first = next(iter(tables.values()))
    names = list(first)
    drawn, axes = _grouped(tables)
    axes.axhline(first[names[0]][0], color="grey", linestyle="--", linewidth=1, label=f"dominant gap, {next(iter(tables))}")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel=what, title="Reward gap by language")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    save(drawn, path)


def plot_rates(tables: dict[str, Bars], path: Path, what: str, title: str) -> None:
    """Bars of a rate per language, in per cent of 0 to 1, one group for each of `tables`; a language that a table lacks has no
    bar there."""
    drawn, axes = _grouped({label: {name: _percent(bar) for name, bar in table.items()} for label, table in tables.items()})
    axes.set(ylabel=f"{what}, %", title=title, ylim=(0, 100))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    save(drawn, path)


def plot_matrix(values: Any, names: Sequence[str], path: Path, title: str) -> None:
    """A heat map of a square matrix of numbers from 0 to 1, whose rows and columns have these names."""
    drawn, axes = figure(2 + 0.7 * len(names), 1.5 + 0.6 * len(names))
    image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis")
    axes.set(xticks=range(len(names)), yticks=range(len(names)), xticklabels=names, yticklabels=names)
    axes.set_title(title, fontsize=9)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if value < 0.6 else "black")
    drawn.colorbar(image)
    save(drawn, path)


def _percent(bar: tuple[float, float, float]) -> tuple[float, float, float]:
    value, low, high = bar
    return 100 * value, 100 * low, 100 * high


def _grouped(tables: dict[str, Bars]) -> tuple[Any, Any]:
    """A figure with a group of bars for each name of any table."""
    names = list(dict.fromkeys(name for table in tables.values() for name in table))
    drawn, axes = figure(max(6, 1.1 * len(names) + 2), 4.5)
    width = 0.8 / len(tables)
    for i, (label, table) in enumerate(tables.items()):
        at = [x + (i - (len(tables) - 1) / 2) * width for x, name in enumerate(names) if name in table]
        bars = [table[name] for name in names if name in table]
        error = [[mean - low for mean, low, _ in bars], [high - mean for mean, _, high in bars]]
        axes.bar(at, [mean for mean, _, _ in bars], width * 0.95, yerr=error, capsize=3, label=label)
    axes.set_xticks(range(len(names)), names)
    return drawn, axes
