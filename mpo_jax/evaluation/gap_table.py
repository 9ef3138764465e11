"""How large is the reward gap in each language, and how certain is it? Rows of gaps -> a table with intervals."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class RowGap:
    """The reward gaps of one row, in nats per token where they are length-normalised. The source's gap is None in data without a
    dominant side."""

    id: str
    language: str
    target_gap: float
    source_language: str | None = None
    source_key: str | None = None  # the same for rows with the same dominant pair, so that each pair counts once
    source_gap: float | None = None


@dataclasses.dataclass(frozen=True)
class GapLine:
    """The mean gap of one language, with its 95 % bootstrap interval (percentiles over `DRAWS` resamples of the rows)."""

    name: str  # the language, followed by " (dominant)" for the dominant side
    count: int
    mean: float
    low: float
    high: float


GapTable = list[GapLine]
DRAWS, CONFIDENCE = 2000, 0.95


def gap_table(rows: Sequence[RowGap]) -> GapTable:
    """The dominant side first, each distinct dominant pair counted once, then the target languages by name."""
    sources = {(row.source_language, row.source_key): row.source_gap for row in rows if row.source_gap is not None}
    groups: dict[str, list[float]] = {}
    for (language, _), gap in sorted(sources.items(), key=str):
        groups.setdefault(f"{language} (dominant)", []).append(gap)
    for row in sorted(rows, key=lambda row: row.language):
        groups.setdefault(row.language, []).append(row.target_gap)
    return [_line(name, np.asarray(gaps)) for name, gaps in groups.items()]


def implicit(rows: Sequence[RowGap], base: Sequence[RowGap], beta: float) -> list[RowGap]:
    """The gaps of DPO's implicit reward beta (log p - log p_base), in nats: beta times the difference between a row's gap (of
    sums) and the base model's (arXiv:2505.16869, eq. 2). `rows` and `base` are the same rows under the two models."""

    def less(gap: float | None, base_gap: float | None) -> float | None:
        return None if gap is None or base_gap is None else beta * (gap - base_gap)

    return [
        dataclasses.replace(
            row, target_gap=beta * (row.target_gap - under.target_gap), source_gap=less(row.source_gap, under.source_gap)
        )
        for row, under in zip(rows, base, strict=True)
    ]


def _line(name: str, gaps: np.ndarray) -> GapLine:
    mean = float(gaps.mean())
    if np.ptp(gaps) == 0:  # one row, or equal ones
        return GapLine(name, len(gaps), mean, mean, mean)
    from scipy import stats  # takes a second to import

    settings = {"n_resamples": DRAWS, "batch": 100, "confidence_level": CONFIDENCE, "method": "percentile"}
    seed = np.random.default_rng(0)  # the same rows give the same interval
    low, high = stats.bootstrap((gaps,), np.mean, rng=seed, **settings).confidence_interval
    return GapLine(name, len(gaps), mean, float(low), float(high))


def bars(tables: dict[str, GapTable]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Label -> language -> (mean, low, high), for `plot_gaps`."""
    return {label: {line.name: (line.mean, line.low, line.high) for line in table} for label, table in tables.items()}


def format_tables(tables: dict[str, GapTable]) -> str:
    """Tables of the same languages side by side, for the terminal."""
    header = f"{'language':<16}{'rows':>6}" + "".join(f"{label:>30}" for label in tables)
    lines = [header]
    for line in next(iter(tables.values())):
        cells = []
        for table in tables.values():
            other = next(x for x in table if x.name == line.name)
            cells.append(f"{other.mean:+.3f} [{other.low:+.3f}, {other.high:+.3f}]".rjust(30))
        lines.append(f"{line.name:<16}{line.count:>6}" + "".join(cells))
    return "\n".join(lines)
