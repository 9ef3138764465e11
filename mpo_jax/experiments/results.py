"""What are the results of a study? Means over seeds with intervals, as tables and plots."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit
from scipy.stats import rankdata

from mpo_jax.experiments.world import DOMINANT, LANGUAGES, TARGETS, Noise
from mpo_jax.telemetry.plots import figure, save

BASE = "base"  # the model before any method


@dataclasses.dataclass(frozen=True)
class Run:
    """One method on one seed; `values` are those of `measuring.make_measure`."""

    method: str
    seed: int
    noise: Noise
    learning_rate: float
    values: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds and the half-width of its 95 % interval by Student's t (NaN with one seed)."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        n = len(values)
        spread = float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        return cls(float(np.mean(values)), float(stdtrit(n - 1, 0.975)) * spread if n > 1 else math.nan)

    def text(self, digits: int) -> str:
        return f"{self.mean:.{digits}f}" if math.isnan(self.half) else f"{self.mean:.{digits}f} ± {self.half:.{digits}f}"


def over_targets(values: dict[str, float], name: str) -> float:
    return float(np.mean([values[f"{name}/{language}"] for language in TARGETS]))


def balance(values: dict[str, float]) -> float:
    """How safe and helpful a model is over all languages: the mean of refusals of unsafe requests and answers to safe ones."""
    return float(np.mean([values[f"{name}/{language}"] for name in ("refuses", "answers") for language in LANGUAGES]))


Value = Callable[[dict[str, float]], float]


def _of(name: str) -> Value:
    return lambda values: over_targets(values, name)


def _at(name: str) -> Value:
    return lambda values: values[name]


# Column -> its value for one run, and its decimals; by default the mean over the target languages.
SAFETY: dict[str, tuple[Value, int]] = {
    "refuses": (_of("refuses"), 3),
    "worst language": (lambda values: min(values[f"refuses/{language}"] for language in TARGETS), 3),
    "complies": (_of("complies"), 3),
    "answers": (_of("answers"), 3),
    "balance": (balance, 3),
    "gap": (_of("gap"), 2),
    "accuracy": (_of("accuracy"), 3),
    "perplexity": (_of("perplexity"), 3),
}
KEPT: dict[str, tuple[Value, int]] = {
    "refuses": (_at(f"refuses/{DOMINANT}"), 3),
    "answers": (_at(f"answers/{DOMINANT}"), 3),
    "gap": (_at(f"gap/{DOMINANT}"), 2),
    "perplexity": (_at(f"perplexity/{DOMINANT}"), 4),
    "KL": (_at("drift/kl"), 4),
    "hidden": (_at("drift/hidden"), 3),
}
WRITTEN: dict[str, tuple[Value, int]] = {
    "refuses, by likelihood": SAFETY["refuses"],
    "refuses, written": (_of("writes_refusal"), 3),
    "worst language, written": (lambda values: min(values[f"writes_refusal/{language}"] for language in TARGETS), 3),
    "complies, by likelihood": SAFETY["complies"],
    "complies, written": (_of("writes_compliance"), 3),
}
EACH: dict[str, tuple[Value, int]] = {language: (_at(f"complies/{language}"), 3) for language in LANGUAGES}
NOISY: dict[str, tuple[Value, int]] = {name: SAFETY[name] for name in ("refuses", "complies", "answers", "balance", "gap")}


def estimates(runs: Sequence[Run], method: str, noise: Noise, value: Value) -> Estimate:
    return Estimate.of([value(run.values) for run in runs if run.method == method and run.noise == noise])


def methods_of(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.method for run in runs))


def noises_of(runs: Sequence[Run]) -> list[Noise]:
    return list(dict.fromkeys(run.noise for run in runs))


def markdown(runs: Sequence[Run]) -> str:
    """The tables of a study: those of all methods for the first noise, then one for all noises."""
    seeds = len({run.seed for run in runs})
    first, rates = noises_of(runs)[0], {run.method: run.learning_rate for run in runs}
    names = [method for method in methods_of(runs) if any(run.method == method and run.noise == first for run in runs)]

    def table(title: str, columns: dict[str, tuple[Value, int]]) -> str:
        rows = [
            [f"`{method}`", *(estimates(runs, method, first, value).text(digits) for value, digits in columns.values())]
            for method in names
        ]
        return markdown_table(title, ["method", *columns], rows)

    title = f"means of {seeds} seeds with 95 % intervals" if seeds > 1 else "one seed"
    parts = [
        f"{title}; {_named(first)}",
        table("Target languages", SAFETY),
        table("What the models write", WRITTEN),
        markdown_table("Rank correlation of reward gap and refusals", ["over", *RELATED], _relations(runs, first, names)),
        table("The dominant language", KEPT),
        table("Share of unsafe requests that are complied with, by language", EACH),
        markdown_table("Learning rates", ["method", "learning rate"], [[f"`{m}`", f"{rates[m]:g}"] for m in names if m != BASE]),
    ]
    if len(noises_of(runs)) > 1:
        parts.append(_noise_table(runs))
    return "\n\n".join(parts) + "\n"


RELATED = {"by likelihood": "refuses", "written": "writes_refusal"}


def correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's, of two quantities at the same points; NaN where one of them is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def relation(runs: Sequence[Run], noise: Noise, methods: Sequence[str], name: str) -> tuple[Estimate, int] | None:
    """(Spearman's correlation of the gap and of the share `name` over all languages under these methods, computed seed by seed;
    the number of seeds that have one). A seed where one of them is constant has none; None where no seed has one."""
    found = []
    for seed in dict.fromkeys(run.seed for run in runs):
        those = [run.values for run in runs if run.seed == seed and run.noise == noise and run.method in methods]
        gaps, shares = ([values[f"{of}/{language}"] for values in those for language in LANGUAGES] for of in ("gap", name))
        found.append(correlation(gaps, shares))
    known = [value for value in found if not math.isnan(value)]
    return (Estimate.of(known), len(known)) if known else None


def _relations(runs: Sequence[Run], noise: Noise, methods: Sequence[str]) -> list[list[str]]:
    over = {"languages and methods": methods, **{f"languages, `{method}`": [method] for method in methods}}
    seeds, rows = len({run.seed for run in runs}), []
    for label, those in over.items():
        row = [label]
        for name in RELATED.values():
            found = relation(runs, noise, those, name)
            row.append("-" if found is None else found[0].text(2) + (f" (of {found[1]})" if found[1] < seeds else ""))
        rows.append(row)
    return rows


def _noise_table(runs: Sequence[Run]) -> str:
    swept = [method for method in methods_of(runs) if len({run.noise for run in runs if run.method == method}) > 1]
    rows = [
        [f"`{method}`", _named(noise), *(estimates(runs, method, noise, value).text(digits) for value, digits in NOISY.values())]
        for method in swept
        for noise in noises_of(runs)
    ]
    return markdown_table("Noise in the target side of the preference data", ["method", "noise", *NOISY], rows)


def _named(noise: Noise) -> str:
    parts = [f"{share:.0%} of the {what}" for what, share in (("words", noise.words), ("labels", noise.flips)) if share]
    return " and ".join(parts) + " wrong" if parts else "no noise"


def markdown_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return f"### {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(runs: Sequence[Run], folder: Path) -> None:
    """`safety.png`, `gaps.png`, and `noise.png` where there are several noises."""
    _plot_safety(runs, folder / "safety.png")
    _plot_gaps(runs, folder / "gaps.png")
    if len(noises_of(runs)) > 1:
        _plot_noise(runs, folder / "noise.png")


def _plot_safety(runs: Sequence[Run], path: Path) -> None:
    """Refusals against their cost: answers to safe requests in the target languages, and drift of the dominant language."""
    drawn, (left, right) = figure(12, 5, columns=2)
    first = noises_of(runs)[0]
    for i, method in enumerate(methods_of(runs)):
        y = estimates(runs, method, first, SAFETY["refuses"][0])
        for axes, column in ((left, SAFETY["answers"]), (right, KEPT["KL"])):
            x = estimates(runs, method, first, column[0])
            if axes is right and method == BASE:
                continue  # it has not moved, and a logarithmic axis cannot show 0
            style = {"fmt": "os^D"[i // 10 % 4], "color": f"C{i % 10}", "markersize": 5, "elinewidth": 0.7}
            axes.errorbar(x.mean, y.mean, xerr=_bar(x), yerr=_bar(y), label=method, **style)
    left.set(xlabel="safe requests answered, target languages", ylabel="unsafe requests refused, target languages")
    right.set(xlabel="KL from the base on dominant answers, nats per token", xscale="log")
    drawn.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    save(drawn, path)


def _plot_gaps(runs: Sequence[Run], path: Path) -> None:
    """The reward gap of every language under every method; MPO aims at the base model's dominant gap."""
    names, first = methods_of(runs), noises_of(runs)[0]
    gaps = np.asarray([[estimates(runs, m, first, _at(f"gap/{name}")).mean for name in LANGUAGES] for m in names])
    drawn, axes = figure(7, 0.36 * len(names) + 1.6)
    reach = abs(gaps[0]).max() * 2.5
    image = axes.imshow(gaps, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto")
    for (i, j), gap in np.ndenumerate(gaps):
        axes.text(j, i, f"{gap:.2f}", ha="center", va="center", fontsize=8, color="white" if abs(gap) > 0.75 * reach else "black")
    axes.set_xticks(range(len(LANGUAGES)), [f"{DOMINANT} (dominant)", *TARGETS])
    axes.set_yticks(range(len(names)), names)
    axes.set(title="Reward gap on held-out unsafe requests, nats per token")
    drawn.colorbar(image, ax=axes)
    save(drawn, path)


def _plot_noise(runs: Sequence[Run], path: Path) -> None:
    """Refusals and balance over each of the two kinds of noise."""
    drawn, panels = figure(14, 4.2, columns=4)
    kinds: list[tuple[str, Callable[[Noise], tuple[float, float]]]] = [
        ("words", lambda noise: (noise.words, noise.flips)),
        ("labels", lambda noise: (noise.flips, noise.words)),
    ]
    swept = [method for method in methods_of(runs) if len({run.noise for run in runs if run.method == method}) > 1]
    shown = [(kind, share, name) for kind, share in kinds for name in ("refuses", "balance")]
    for axes, (kind, share, name) in zip(panels, shown, strict=True):
        alone = sorted((noise for noise in noises_of(runs) if share(noise)[1] == 0), key=lambda noise: share(noise)[0])
        for method in swept:
            found = [estimates(runs, method, noise, SAFETY[name][0]) for noise in alone]
            x = [share(noise)[0] for noise in alone]
            axes.errorbar(x, [e.mean for e in found], yerr=[_bar(e) or 0 for e in found], fmt="o-", capsize=2, label=method)
        axes.set(xlabel=f"share of wrong {kind}", ylabel=name)
    panels[0].legend(fontsize=8)
    save(drawn, path)


def _bar(estimate: Estimate) -> Any:
    return None if math.isnan(estimate.half) else estimate.half
