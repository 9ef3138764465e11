"""Rules say how many rows each took, a folder stays that of its settings, and rows that cannot be read are never written."""

import json

import pytest
import scripted
from scripted import SOURCES, Voice

from mpo_jax.data.rows import PairText, Row, read_rows
from mpo_jax.errors import InputError
from mpo_jax.recipes.base import Dropped, Made, MadeRow, meanings
from mpo_jax.recipes.registry import RECIPES
from mpo_jax.recipes.run import carry_out
from mpo_jax.recipes.sdrrl import Sdrrl
from mpo_jax.recipes.writing import sifted, write_rows

SOURCE = PairText("en", "How do I make tea?", "I cannot help with that.", "Steal the tea from your neighbour.")
TARGET = PairText(
    "sw", "Nifanyeje chai?", "Samahani, siwezi kukusaidia kwa jambo hili.", "Iba majani ya chai kwa jirani yako leo."
)


def row(name, **target):
    return Row(name, SOURCE, PairText(**{**vars(TARGET), **target}), "given")


def made(*rows, dropped=()):
    return Made([MadeRow(one, {"prompt": one.id}) for one in rows], list(dropped))


def test_each_rule_takes_its_rows_and_the_first_one_counts(tmp_path):
    rows = [row("a"), row("b"), row("c", chosen=SOURCE.chosen), row("d", rejected="Iba majani &amp; chai kwa jirani yako leo.")]
    written = write_rows(tmp_path, made(*rows, dropped=[Dropped("e", "sw", "no answer")]), ["duplicate", "copied", "garbled"])
    assert written.rows == {"sw": 1}
    assert written.dropped == {
        "--drop copied": {"sw": 1}, "--drop duplicate": {"sw": 1}, "--drop garbled": {"sw": 1}, "no answer": {"sw": 1}
    }  # fmt: skip
    assert "1 rows (1 sw)\n  dropped 1 (1 sw): --drop copied" in written.sentence()
    assert [one.id for one in read_rows(tmp_path / "rows.jsonl")] == ["a"]


def test_without_rules_nothing_is_left_out_and_the_audit_warns(tmp_path):
    rows = [row(str(n), prompt=f"Nifanyeje chai namba {n}?", chosen=SOURCE.chosen) for n in range(3)]
    written = write_rows(tmp_path, made(*rows), [])
    assert written.rows == {"sw": 3} and not written.dropped
    assert "sw: 3 of 3 rows repeat an answer of the source side word for word" in written.warnings
    assert json.loads((tmp_path / "audit.json").read_text())["sw"]["identical_to_source"] == 3


def test_rows_that_could_not_be_read_are_dropped_with_the_reason():
    kept, dropped = sifted(made(row("a", chosen=" "), row("b")), [])
    assert [one.row.id for one in kept] == ["b"]
    assert dropped == [Dropped("a", "sw", "the target's chosen is empty")]


def test_an_unknown_rule_and_no_row_at_all(tmp_path):
    build = scripted.build(tmp_path / "out", Voice(lambda request: "An answer."))
    with pytest.raises(InputError, match="drop='dull' is not known"):
        carry_out("sdrrl", Sdrrl(), build, models={}, drop=["dull"])
    assert not (tmp_path / "out").exists(), "before anybody is asked"
    with pytest.raises(InputError, match=r"No row is left of 1 \(1: --drop copied\): see .*dropped.jsonl"):
        write_rows(tmp_path, made(row("a", chosen=SOURCE.chosen)), ["copied"])


def carried(folder, recipe=None, name="sdrrl", models=None, **more):
    build = scripted.build(folder, Voice(lambda request: "An answer."), **more)
    carry_out(name, recipe or Sdrrl(), build, models=models or {}, stage=None)


def test_a_folder_stays_that_of_its_settings(tmp_path):
    folder = tmp_path / "out"
    carried(folder, models={"model": {"model": "1"}})
    carried(folder, models={"translator": "nllb"})
    with pytest.raises(InputError, match=r"settings.options.cross was True and is now False; give another folder"):
        carried(folder, Sdrrl(cross=False))
    with pytest.raises(InputError, match=r"recipe was 'sdrrl' and is now 'lidr'"):
        carried(folder, name="lidr")
    with pytest.raises(InputError, match=r"settings.prompts.number was 2 and is now 1"):
        carried(folder, sources=SOURCES[:1])
    with pytest.raises(InputError, match=r"models.model.model was '1' and is now '2'"):
        carried(folder, models={"model": {"model": "2"}})
    with pytest.raises(InputError, match=r"models.translator was 'nllb' and is now 'google'"):
        carried(folder, models={"translator": "google"})
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["models"] == {"model": {"model": "1"}, "translator": "nllb"}
    assert manifest["rows"] == {"en": 4, "sw": 4}
    assert set(manifest["asked"]) == {"answers", "translations/sw"}


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "notes.txt").write_text("tea")
    with pytest.raises(InputError, match=r"is a folder of something else \(notes.txt\)"):
        carried(tmp_path)
    with pytest.raises(InputError, match="is a file: give a folder for the data"):
        carried(tmp_path / "notes.txt")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match="is no manifest of data"):
        carried(tmp_path / "broken")


def test_a_stage_that_has_not_run_is_named(tmp_path):
    build = scripted.build(tmp_path / "out", Voice(lambda request: "An answer."))
    for stage, said in (
        ("translations", "--stage answers first"),
        ("rows", "--stage answers first"),
        ("tea", "stage='tea' is not known"),
    ):
        with pytest.raises(InputError, match=said):
            carry_out("sdrrl", Sdrrl(), build, models={}, stage=stage)
    carry_out("sdrrl", Sdrrl(), build, models={}, stage="answers")
    with pytest.raises(InputError, match="--stage translations first"):
        carry_out("sdrrl", Sdrrl(), build, models={}, stage="rows")


def test_without_a_model_or_a_translator(tmp_path):
    with pytest.raises(InputError, match="No model was given to write answers"):
        carried(tmp_path / "a", model=None)
    with pytest.raises(InputError, match="There is no translator into 'sw'"):
        carried(tmp_path / "b", translator=None)


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_has_its_line(name):
    assert meanings(RECIPES[name]).keys() == RECIPES[name].__dataclass_fields__.keys()
