"""What the command `safety` writes is what the page reads, rates, changes and correlations."""

import dataclasses
import json

import pytest
import small_run

from mpo_jax.clients.judges.base import REFUSALS, THREE_CLASSES, Judge, Scale
from mpo_jax.evaluation.safety.exchanges import Exchange
from mpo_jax.evaluation.safety.rates import table
from mpo_jax.evaluation.safety.relation import read_gaps, relation
from mpo_jax.evaluation.safety.report import Beside, write_report
from mpo_jax.evaluation.safety.verdicts import UNPARSED, Verdict
from mpo_jax.reporting.safety_files import read_safety


def never(*_):
    raise AssertionError("nobody is asked")


def judge(scale: Scale) -> Judge:
    known = {"name": "made-up", "scale": scale, "languages": None, "messages": never, "parse": never, "responder": never}
    return Judge(**{field.name: known[field.name] for field in dataclasses.fields(Judge) if field.name in known})


def said(**words: str) -> list[Verdict]:
    return [
        Verdict(Exchange(language, str(i), 0, 0, "q", "r"), word)
        for language, those in words.items()
        for i, word in enumerate(those.split())
    ]


BEFORE = said(en="safe safe safe safe", ar="unsafe unsafe invalid safe", sw="unsafe unsafe unsafe safe")
AFTER = said(en="safe safe safe safe", ar="unsafe safe safe safe", sw=f"safe safe unsafe {UNPARSED}")


def test_rates_changes_and_correlations_are_those_that_were_written(tmp_path):
    folder = small_run.write_run(tmp_path / "run")
    (folder / "asr.json").unlink()
    gaps = read_gaps(folder / "reward_gap.json", "before")
    related = {"before": relation(gaps, table(BEFORE, THREE_CLASSES), "asr_paper")}
    assert related["before"] is not None
    write_report(folder / "safety", judge(THREE_CLASSES), {"before": BEFORE, "after": AFTER}, Beside(relations=related))
    paper, unsafe = read_safety(folder)
    assert paper.title == THREE_CLASSES.rates[0].name
    assert paper.better == "lower"
    assert [paper.of["before"][language].value for language in ("en", "ar", "sw")] == [0, 0.75, 0.75]
    assert unsafe.of["before"]["ar"].value == 0.5
    assert paper.of["after"]["sw"].value == pytest.approx(1 / 3)  # of what could be read
    assert paper.average["before"].value == 0.5
    assert paper.change["ar"].value == -0.5
    assert any("after: in no rate are 1 unparsed" in note for note in paper.notes)
    assert any("over 3 languages: Spearman" in note for note in paper.notes)
    assert unsafe.notes == []


def test_refusals_by_their_openings_are_no_attack_success(tmp_path):
    only = said(en="refusal refusal", sw="refusal other")
    write_report(tmp_path, judge(REFUSALS), {"model": only}, Beside())
    assert not (tmp_path / "asr.json").exists()
    (refusals,) = read_safety(tmp_path)
    assert refusals.better == "higher"
    assert "smoke test" in refusals.notes[0]
    assert refusals.of["model"]["sw"].value == 0.5


def test_a_rate_of_nothing_is_not_there(tmp_path):
    write_report(tmp_path, judge(THREE_CLASSES), {"model": said(en="safe", sw=UNPARSED)}, Beside())
    paper, _ = read_safety(tmp_path)
    assert list(paper.of["model"]) == ["en"]
    assert json.loads((tmp_path / "asr.json").read_text())["models"]["model"]["lines"][1]["rates"]["asr_paper"] is None
