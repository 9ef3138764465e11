"""Rows that are read when they are asked for are those of `read_rows`, and so are the errors."""

import dataclasses
import functools
import json
import sys
import types

import numpy as np
import pytest

from mpo_jax.data import row_file
from mpo_jax.data.kept import Kept
from mpo_jax.data.row_file import open_rows
from mpo_jax.data.rows import read_rows
from mpo_jax.errors import InputError

SIDE = {"language": "sw", "prompt": "swali", "chosen": "hapana é", "rejected": "ndiyo"}
ROWS = [
    {"id": "ü", "source": SIDE | {"language": "en"}, "target": SIDE},
    {"source": SIDE | {"language": "en", "prompt": "\u2028"}, "target": SIDE | {"chosen": "another"}},
    {
        "source": {**SIDE, "language": None, "prompt": "what is it"},
        "target": {k: SIDE[k] for k in ("prompt", "chosen", "rejected")},
    },
]


def turn(speaker, text):
    return {"from": speaker, "value": text}


AUTHORS = {
    f"{side}_{key}": value
    for side, word in (("source", "what is it, please"), ("target", "질문"))
    for key, value in (
        ("conversations", [turn("human", word)]),
        ("chosen", turn("gpt", word + " 1")),
        ("rejected", turn("gpt", word + " 2")),
    )
}


def lines(rows, **options):
    return "\n".join(json.dumps(row, **options) for row in rows)


FILES = {
    "lines": lines(ROWS),
    "blank lines and characters as they are": "\n \n" + lines(ROWS, ensure_ascii=False).replace("\n", "\n\n") + "\n\n",
    "a byte order mark": "\ufeff" + lines(ROWS),
    "carriage returns": lines(ROWS).replace("\n", "\r\n"),
    "an array": json.dumps(ROWS, indent=1),
    "an array after a byte order mark": "\ufeff \n" + json.dumps(ROWS),
    "the authors'": lines([AUTHORS, AUTHORS | {"target_chosen": turn("gpt", "아니요")}]),
    "an array of the authors'": json.dumps([AUTHORS, AUTHORS]),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cache", ["", "cache"])
def test_rows_are_those_of_the_file(tmp_path, name, cache):
    path, kept = tmp_path / "rows.json", Kept(str(tmp_path / cache) if cache else "")
    path.write_text(FILES[name], encoding="utf-8", newline="")
    for _ in range(2):
        assert open_rows(path, allow_empty_prompt=True, kept=kept) == read_rows(path, allow_empty_prompt=True)


def test_an_array_and_lines_have_the_same_rows(tmp_path):
    of = {}
    for name in ("lines", "an array"):
        (tmp_path / name).write_text(FILES[name])
        of[name] = open_rows(tmp_path / name, allow_empty_prompt=True, kept=Kept())
    same(*of.values())


def test_the_authors_array_has_the_rows_of_its_lines(shared, tmp_path):
    array, path = shared / "data/mpo/llama_mpo_data.json", tmp_path / "rows.jsonl"
    path.write_text(lines(json.loads(array.read_text(encoding="utf-8"))))
    same(*(open_rows(of, allow_empty_prompt=True, kept=Kept()) for of in (array, path)))


def same(one, other):
    assert one == other
    assert one.digest() == other.digest()
    for field in dataclasses.fields(one.columns):
        if field.name != "places":
            assert np.array_equal(getattr(one.columns, field.name), getattr(other.columns, field.name)), field.name


def test_a_data_set_of_the_hub_is_read_row_by_row(monkeypatch):
    """Again where a row is asked for."""
    asked = []

    class Rows(list):
        def __getitem__(self, at):
            asked.append(at)
            return super().__getitem__(at)

    rows = Rows({"id": None, **row} for row in ROWS)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *_, **__: rows))
    found = open_rows("user/name@v1", allow_empty_prompt=True, kept=Kept())
    assert not asked
    assert found[1] == read_rows("user/name@v1", allow_empty_prompt=True)[1]
    assert asked == [1]
    rows.append({"target": {}})
    for reading in (read_rows, functools.partial(open_rows, kept=Kept())):
        with pytest.raises(InputError, match=r"^user/name:test, row 3: the key 'target.prompt' is missing"):
            reading("user/name:test", allow_empty_prompt=True)


def test_a_file_is_checked_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    path, kept, checked = tmp_path / "rows.jsonl", Kept(str(tmp_path / "cache")), []
    check = row_file.checked
    monkeypatch.setattr(row_file, "checked", lambda *args: checked.append(args) or check(*args))
    path.write_text(lines(ROWS))
    for times in (1, 1):
        assert len(open_rows(path, allow_empty_prompt=True, kept=kept)) == 3
        assert len(checked) == times
    path.write_text(lines([*ROWS[:2], ROWS[0] | {"id": "b"}]))
    assert open_rows(path, allow_empty_prompt=True, kept=kept).ids[2] == "b"
    with pytest.raises(InputError, match="the prompt on the source side is empty"):
        open_rows(path, kept=kept)


BAD = {
    "not JSON": lines(ROWS) + "\n{",
    "not UTF-8": lines(ROWS).encode() + b'\n"\xff"',
    "unknown key": lines([*ROWS, {"tagret": SIDE}]),
    "empty answer": lines([*ROWS, {"source": SIDE, "target": SIDE | {"chosen": " "}}]),
    "the same id": lines([*ROWS, ROWS[0]]),
    "no source": lines([*ROWS, {"target": SIDE}]),
    "half a character": lines([*ROWS, {"source": SIDE, "target": SIDE | {"chosen": "\ud800"}}]),
    "no rows": "\n\n",
    "nothing": "",
    "an array that ends early": json.dumps(ROWS)[:-1],
    "an empty array": "[]",
}


@pytest.mark.parametrize("name", BAD)
def test_faults_are_the_same_sentences(tmp_path, name):
    path, data = tmp_path / "rows.jsonl", BAD[name]
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(InputError) as eager:
        read_rows(path, allow_empty_prompt=True)
    with pytest.raises(InputError) as lazy:
        open_rows(path, allow_empty_prompt=True, kept=Kept(str(tmp_path / "cache")))
    assert str(lazy.value) == str(eager.value)


@pytest.mark.parametrize("name", ["lines", "an array"])
def test_a_file_that_changes_under_a_run_is_an_error(tmp_path, name):
    path = tmp_path / "rows.jsonl"
    path.write_text(FILES[name])
    rows = open_rows(path, allow_empty_prompt=True, kept=Kept())
    with path.open("r+") as file:  # in place, as the map sees it
        file.write("{{{{{{{{")
    with pytest.raises(InputError, match=r"has changed while it was read"):
        rows[0]
