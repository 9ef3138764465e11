import json
import sys
import types

import pytest

from mpo_jax.data.rows import read_rows
from mpo_jax.errors import InputError


def _side(**changes):
    return {"prompt": "what is this and that?", "chosen": "this is it", "rejected": "that is not it"} | changes


def _turns(side, prompt="what is this?", chosen="that is it", rejected="this is not"):
    return {
        f"{side}_conversations": [{"from": "human", "value": prompt}],
        f"{side}_chosen": {"from": "gpt", "value": chosen},
        f"{side}_rejected": {"from": "gpt", "value": rejected},
    }


def _authors(**changes):
    return _turns("source") | _turns("target", "질문", "대답", "다른 대답") | changes


def _write(tmp_path, *objects, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(o, ensure_ascii=False) for o in objects), encoding="utf-8")
    return path


def test_our_own_jsonl_keeps_text_ids_and_languages(tmp_path):
    path = _write(
        tmp_path,
        {"id": "a", "source": _side(language="en"), "target": _side(language="sw", chosen="  \u2028spaces stay\n")},
        {"source": _side(), "target": _side(prompt="это вопрос", chosen="это ответ", rejected="ещё ответ")},
    )
    first, second = read_rows(path)
    assert (first.id, first.source.language, first.target.language, first.language_method) == ("a", "en", "sw", "given")
    assert first.target.chosen == "  \u2028spaces stay\n"
    assert (second.id, second.source.language, second.target.language, second.language_method) == ("1", "en", "ru", "detected")


def test_a_json_array_and_monolingual_rows(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"target": _side()}, {"source": None, "target": _side(prompt="why not?")}]), encoding="utf-8")
    assert [row.source for row in read_rows(path)] == [None, None]


def test_the_authors_schema(tmp_path):
    (row,) = read_rows(_write(tmp_path, _authors(), name="rows.json"))
    assert (row.source.language, row.target.language, row.target.prompt) == ("en", "ko", "질문")


def test_an_untranslated_text_does_not_change_the_language_of_a_row(tmp_path):
    english = "this is what the model said in the language of the other side " * 5
    for key in ("prompt", "chosen", "rejected"):
        texts = {"prompt": "질문", "chosen": "대답", "rejected": "응답"} | {key: english}
        (row,) = read_rows(_write(tmp_path, _authors(**_turns("target", **texts))))
        assert row.target.language == "ko"
    (row,) = read_rows(_write(tmp_path, _authors(**_turns("target", english, english, "짧은 대답"))))
    assert row.target.language == "ko"


BROKEN = {
    "an unknown key": ({"target": _side(), "sorce": None}, ["line 2", "'sorce'", "'source'"]),
    "an unknown key of a side": ({"target": _side(promt="x")}, ["line 2", "'target.promt'", "'target.prompt'"]),
    "a missing side": ({"source": _side()}, ["line 2", "'target'"]),
    "a missing text": ({"target": {"prompt": "a", "chosen": "b"}}, ["line 2", "'target.rejected'", "missing"]),
    "a list for a string": ({"target": _side(prompt=["a"])}, ["line 2", "'target.prompt'", "a list"]),
    "a number for an id": ({"id": 3, "target": _side()}, ["line 2", "'id'", "a number"]),
    "a string for a side": ({"target": "text"}, ["line 2", "'target'", "a string"]),
    "no object": ([1], ["line 2", "a list"]),
    "an empty prompt": ({"target": _side(prompt=" ")}, ["line 2", "prompt", "target", "allow_empty_prompt"]),
    "an empty answer": ({"target": _side(rejected="\n")}, ["line 2", "rejected", "target"]),
    "an empty language": ({"target": _side(language="")}, ["line 2", "'target.language'"]),
    "an id twice": ({"id": "0", "target": _side()}, ["line 2", "'0'", "line 1"]),
    "a source in one row only": ({"source": _side(), "target": _side()}, ["line 2", "source"]),
    "two turns": (_authors(target_conversations=[{}, {}]), ["line 2", "'target_conversations'", "2 turns"]),
    "a wrong speaker": (_authors(source_chosen={"from": "human", "value": "x"}), ["line 2", "'source_chosen'", "gpt"]),
    "half of the authors' schema": (_turns("target"), ["line 2", "'source_conversations'", "missing"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_said_with_file_row_and_key(tmp_path, name):
    value, words = BROKEN[name]
    path = _write(tmp_path, {"target": _side()}, value)
    with pytest.raises(InputError) as error:
        read_rows(path)
    for word in [str(path), *words]:
        assert word in str(error.value), str(error.value)


def test_empty_prompts_are_read_when_allowed_and_empty_answers_never(tmp_path):
    assert read_rows(_write(tmp_path, {"target": _side(prompt="")}), allow_empty_prompt=True)[0].target.prompt == ""
    with pytest.raises(InputError, match="chosen answer"):
        read_rows(_write(tmp_path, {"target": _side(chosen="")}), allow_empty_prompt=True)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.jsonl", b'{"target": \n', "line 1"),
        ("rows.json", b'[{"a": 1},\n{"b": }]', "line 2"),
        ("rows.json", b"", "no rows"),
        ("rows.json", b"[]", "no rows"),
        ("rows.jsonl", b'{"a": "\xff"}', "UTF-8"),
    ],
)
def test_files_that_are_not_data(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_rows(tmp_path / name)


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(InputError, match="directory"):
        read_rows(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_rows(tmp_path / "none.jsonl")


def test_a_hugging_face_data_set_by_name(monkeypatch):
    asked = []

    def load_dataset(name, split, revision):
        asked.append((name, split, revision))
        if name == "user/missing":
            raise FileNotFoundError("no such data set")
        # Arrow fills what a row lacks with None
        return [{"id": None, "source": None, "target": _side(language=None)}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert read_rows("user/name")[0].target.language == "en"
    for name in ("user/name:test", "user/name@v1.0", "user/name@refs/pr/1:test"):
        read_rows(name)
    assert asked == [
        ("user/name", "train", None),
        ("user/name", "test", None),
        ("user/name", "train", "v1.0"),
        ("user/name", "test", "refs/pr/1"),
    ]
    with pytest.raises(InputError, match=r"user/missing.*no such data set.*check the name, or give"):
        read_rows("user/missing")
    with pytest.raises(InputError, match=r"user/missing@v1 .*no such data set.*check the name and the revision, or give"):
        read_rows("user/missing@v1")


def test_a_local_file_has_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _write(tmp_path, {"target": _side()})
    for name in ("rows.jsonl", str(tmp_path / "rows.jsonl")):
        with pytest.raises(InputError, match=r"rows\.jsonl@v1 is a local path with a revision, .*: write .*rows\.jsonl\."):
            read_rows(f"{name}@v1")
    _write(tmp_path, {"target": _side()}, name="rows.jsonl@v1")
    assert len(read_rows("rows.jsonl@v1")) == 1, "a file of that name"


def test_the_authors_file_row_by_row(shared):
    path = shared / "data/mpo/llama_mpo_data.json"
    with pytest.raises(InputError, match=r"row 505: the prompt on the target side is empty.*allow_empty_prompt"):
        read_rows(path)
    rows = read_rows(path, allow_empty_prompt=True)
    groups = {}
    for row in rows:
        groups.setdefault(row.source.prompt, []).append(row.target.language)
    assert len(rows) == 600
    assert len(groups) == 100
    assert all(sorted(languages) == ["ar", "bn", "ja", "ko", "sw", "zh"] for languages in groups.values())
    assert {row.source.language for row in rows} == {"en"}
