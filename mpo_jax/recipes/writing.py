"""Which files come of a build? The rows, where each comes from, what was dropped and why, an audit, and the manifest.

OUT/rows.jsonl      rows as training and preview read them (`data.rows`)
OUT/origins.jsonl   of each row: its id, and the samples or scores that made it
OUT/dropped.jsonl   {"id", "language", "reason"} of what became no row
OUT/audit.json      counts by target language
"""

import collections
import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mpo_jax.data.audit import audit, warnings
from mpo_jax.data.flaws import DROPS, findings
from mpo_jax.data.rows import PairText, Row
from mpo_jax.errors import InputError
from mpo_jax.files.json_files import replace_text, write_json
from mpo_jax.recipes.base import Dropped, Made, MadeRow

ROWS_FILE = "rows.jsonl"
UNFINISHED = "unfinished"  # the rule about answers that reached the limit of tokens, which a text alone does not show
RULES = (*DROPS, UNFINISHED)


@dataclasses.dataclass(frozen=True)
class Written:
    """What came of a build: numbers by target language, reason -> language -> number of what was dropped, and what the audit
    warns of."""

    rows: dict[str, int]
    dropped: dict[str, dict[str, int]]
    warnings: list[str]

    def sentence(self) -> str:
        said = f"{sum(self.rows.values())} rows ({_counted(self.rows)})"
        for reason, found in self.dropped.items():
            said += f"\n  dropped {sum(found.values())} ({_counted(found)}): {reason}"
        return said + "".join(f"\n  warning: {warning}" for warning in self.warnings)


def write_rows(folder: Path, made: Made, rules: Sequence[str]) -> Written:
    """Writes the files. `rules`: names of `RULES`, in the order in which they are applied. Errors: no row is left."""
    kept, dropped = sifted(made, rules)
    counts: dict[str, collections.Counter[str]] = {}
    for one in dropped:
        counts.setdefault(one.reason, collections.Counter())[one.language] += 1
    summed = {reason: dict(sorted(found.items())) for reason, found in sorted(counts.items())}
    _replace_lines(folder / "dropped.jsonl", [dataclasses.asdict(one) for one in dropped])
    if not kept:
        reasons = "; ".join(f"{sum(found.values())}: {reason}" for reason, found in summed.items())
        raise InputError(f"No row is left of {len(dropped)} ({reasons}): see {folder / 'dropped.jsonl'}.")
    found = audit([one.row for one in kept])
    _replace_lines(folder / ROWS_FILE, [_line(one.row) for one in kept])
    _replace_lines(folder / "origins.jsonl", [{"id": one.row.id, **one.origin} for one in kept])
    write_json(folder / "audit.json", {language: dataclasses.asdict(counts) for language, counts in found.items()})
    return Written({language: counts.rows for language, counts in found.items()}, summed, warnings(found))


def sifted(made: Made, rules: Sequence[str]) -> tuple[list[MadeRow], list[Dropped]]:
    """(rows that can be read and that no rule leaves out, everything else). A row counts under the first reason."""
    kept, dropped = [], list(made.dropped)
    for one, found in zip(made.rows, findings([one.row for one in made.rows]), strict=True):
        hit = next((rule for rule in rules if (one.unfinished if rule == UNFINISHED else DROPS[rule] & {*found})), None)
        reason = _unreadable(one.row) or (None if hit is None else f"--drop {hit}")
        if reason is None:
            kept.append(one)
        else:
            dropped.append(Dropped(one.row.id, one.row.target.language, reason))
    return kept, dropped


def _unreadable(row: Row) -> str | None:
    """Why `data.rows` would refuse a row."""
    for name, side in (("source", row.source), ("target", row.target)):
        for key in ("prompt", "chosen", "rejected"):
            if side is not None and not getattr(side, key).strip():
                return f"the {name}'s {key} is empty"
    return None


def _line(row: Row) -> dict[str, Any]:
    side = lambda text: {key: getattr(text, key) for key in ("language", "prompt", "chosen", "rejected")}  # noqa: E731
    source: PairText | None = row.source
    return {"id": row.id, **({} if source is None else {"source": side(source)}), "target": side(row.target)}


def _replace_lines(path: Path, values: Iterable[Any]) -> None:
    replace_text(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {language}" for language, count in counts.items())
