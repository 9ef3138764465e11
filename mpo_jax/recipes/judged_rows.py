"""What does a judge say of the answers of rows, chosen and rejected, in each language?

OUT/judged.json        judge -> language -> "chosen" or "rejected" -> verdict -> number
OUT/judged/JUDGE/      what it replied
"""

import collections
import dataclasses
import json
from collections.abc import Sequence

from mpo_jax.data.rows import Row, read_rows
from mpo_jax.evaluation.safety.exchanges import Exchange
from mpo_jax.evaluation.safety.verdicts import UNPARSED
from mpo_jax.files.json_files import write_json
from mpo_jax.recipes import judging
from mpo_jax.recipes.base import Build, not_run

FILE, ANSWERS = "judged.json", ("chosen", "rejected")
MISSING = "missing"


def judge_rows(build: Build) -> str:
    """Has the judge read every answer of the build's rows, both sides, and writes what it said beside what other judges did.
    Errors: no rows; no judge; a language that it does not read."""
    path = build.folder / "rows.jsonl"
    if not path.is_file():
        raise not_run("rows", f"{path} does not exist")
    judge, asked = judging.judge_of(build), exchanges(read_rows(path))
    folder = build.folder / "judged" / judge.name
    said = judging.judge_answers(build, asked, folder)
    counts: dict[str, dict[str, collections.Counter[str]]] = {}
    for verdict in judging.said_of(judge, asked, folder):
        one = verdict.exchange
        by_answer = counts.setdefault(one.language, {answer: collections.Counter() for answer in ANSWERS})
        by_answer[ANSWERS[one.sample]][verdict.said or MISSING] += 1
    file = build.folder / FILE
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    write_json(file, {**known, judge.name: {language: counts[language] for language in sorted(counts)}})
    return f"{said}\n{table(counts, (*judge.scale.verdicts, UNPARSED, MISSING))}"


def exchanges(rows: Sequence[Row]) -> list[Exchange]:
    """Each answer once: `sample` 0 is a chosen one, 1 a rejected one that is not the chosen one again."""
    found: dict[Exchange, None] = {}
    for row in rows:
        for side in (row.source, row.target):
            if side is not None:
                found[Exchange(side.language, "", 0, 0, side.prompt, side.chosen)] = None
                if side.rejected != side.chosen:
                    found[Exchange(side.language, "", 1, 0, side.prompt, side.rejected)] = None
    return [dataclasses.replace(one, id=str(i)) for i, one in enumerate(found)]


def table(counts: dict[str, dict[str, collections.Counter[str]]], verdicts: Sequence[str]) -> str:
    there = [name for name in verdicts if any(found[name] for by in counts.values() for found in by.values())]
    lines = [f"  {'language':<10}{'answers':<10}" + "".join(f"{name:>10}" for name in there)]
    for language in sorted(counts):
        for answer in ANSWERS:
            found = counts[language][answer]
            lines.append(f"  {language:<10}{answer:<10}" + "".join(f"{found[name]:>10}" for name in there))
    return "\n".join(lines)
