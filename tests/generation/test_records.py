"""What a folder holds survives a kill at any byte, and no line is believed that is not whole."""

import dataclasses
import json
import os

import pytest

from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.errors import InputError
from mpo_jax.files.paths import Lines
from mpo_jax.generation.base import Request, Response
from mpo_jax.generation.records import Record, Records, read_responses

SETTINGS = {"model": "toy", "decoding": {"temperature": 0.0, "stop": (1, 2)}}
# What JSON, a line or a file could trip over; half a surrogate pair comes from servers, and from files with such an escape.
TEXTS = ["", "habari", "two\nlines\r\n", "\u2028 \x85 \x0b \x00", '"}\n{"', "한국어 🦒", "half \ud83d"]


def request(number: int = 0, *, key: str = "k", turn: int = 0, sample: int = 0, language: str = "sw") -> Request:
    messages = (Message("user", f"swali {number}"),)
    return Request(Prompt(f"p{number}", language, messages), sample, turn, messages, key)


def answer(text: str = "jibu", **more) -> Response:
    return dataclasses.replace(Response(text, "end", 3, 4), **more)


def records(folder, settings=SETTINGS, *, tokens=False) -> Records:
    return Records(folder, settings, tokens=tokens, writes=True)


def filled(folder, texts=TEXTS):
    owner = records(folder)
    for number, text in enumerate(texts):
        owner.write(request(number), answer(text))
    owner.close()
    owner.gather()
    return folder / "responses.jsonl"


def test_what_is_written_is_read_and_read_by_anybody(tmp_path):
    path = filled(tmp_path / "out")
    assert [record.text for record in read_responses(tmp_path / "out")] == TEXTS
    with path.open(encoding="utf-8") as lines:
        assert [json.loads(line)["text"] for line in lines] == TEXTS
    first = json.loads(path.read_text(encoding="utf-8").split("\n")[0])
    assert first == {
        "id": "p0", "language": "sw", "sample": 0, "turn": 0, "text": "", "stopped": "end", "prompt_tokens": 3, "new_tokens": 4,
        "key": "k",
    }  # fmt: skip
    assert "한국어 🦒" in path.read_text(encoding="utf-8"), "people read it too"
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"responses.jsonl", "generation.json"}


def test_errors_and_ids_have_their_place(tmp_path):
    for keep in (True, False):
        folder = tmp_path / str(keep)
        owner = records(folder, tokens=keep)
        owner.write(request(0), answer(tokens=(5, 6)))
        owner.write(request(1), Response("", "error", None, None, error="HTTP 500"))
        owner.close()
        read = {record.id: record for record in read_responses(folder)}
        assert read["p0"].tokens == ((5, 6) if keep else None)
        assert (read["p1"].stopped, read["p1"].error, read["p1"].new_tokens) == ("error", "HTTP 500", None)
        assert read == {record.id: record for record in owner.known.values()}


def test_the_last_line_of_a_prompt_sample_and_turn_counts(tmp_path):
    owner = records(tmp_path)
    owner.write(request(), Response("", "error", None, None, error="HTTP 500"))
    owner.write(request(sample=1), answer("another sample"))
    owner.write(request(turn=1), answer("another turn"))
    owner.write(request(language="bn"), answer("another language"))
    owner.write(request(key="another key"), answer("at last"))
    owner.close()
    assert [record.text for record in read_responses(tmp_path)] == [
        "another language",
        "at last",
        "another turn",
        "another sample",
    ]
    assert len((tmp_path / "responses.jsonl").read_text().splitlines()) == 5, "lines are never changed"


def test_a_kill_at_any_byte_costs_at_most_the_line_it_cut(tmp_path):
    path = filled(tmp_path)
    whole = path.read_bytes()
    ends = [i for i in range(len(whole)) if whole[i : i + 1] == b"\n"]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        lines = sum(cut >= end for end in ends)  # a line whose end alone is missing is whole
        assert [record.text for record in read_responses(tmp_path)] == TEXTS[:lines]
        if cut % 23 == 0:
            owner = records(tmp_path)
            owner.write(request(99), answer("goes on"))
            owner.close()
            assert [record.text for record in read_responses(tmp_path)] == [*TEXTS[:lines], "goes on"]


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (b'{"id": "p', "Unterminated string"),
        (b"", "Expecting value"),
        (b"\xff\xfe", "can't decode byte 0xff"),
        (b"[]", "it is []"),
        (lambda line: line.replace(b'"sample": 0, ', b""), "it lacks 'sample'"),
        (lambda line: line.replace(b'"end"', b'"never"'), "'stopped' is 'never'"),
        (lambda line: line.replace(b'"turn": 0', b'"turn": "0"'), "'turn' is '0'"),
        (lambda line: line.replace(b'"new_tokens": 4', b'"new_tokens": 4.5'), "'new_tokens' is 4.5"),
        (lambda line: line.replace(b'"turn": 0', b'"turn": 0, "score": 1'), "it has 'score'"),
    ],
)
def test_a_broken_line_in_the_middle_is_named(tmp_path, broken, word):
    path = filled(tmp_path)
    lines = path.read_bytes().split(b"\n")
    lines[2] = broken(lines[2]) if callable(broken) else broken
    path.write_bytes(b"\n".join(lines))
    for reads in (read_responses, records):
        with pytest.raises(InputError, match=r"responses\.jsonl, line 3 is not an answer") as refused:
            reads(tmp_path)
        assert word in str(refused.value)
    assert path.read_bytes() == b"\n".join(lines), "nothing is repaired silently"


def test_lines_of_other_processes_are_read_and_gathered(tmp_path):
    """Also those that processes of an earlier run left, with a last line cut short, and whatever moment gathering is killed."""
    path = filled(tmp_path, ["a"])
    line = Record.of(request(7, key="seven"), answer("of process 1"), tokens=False).line()
    (tmp_path / "responses.1.jsonl").write_text(line + "\n" + line.replace("p7", "p8") + '\n{"id": "p9')
    (tmp_path / "responses.12.jsonl").write_text(line.replace("p7", "p9"))
    (tmp_path / "responses.translated.jsonl").write_text("of another program")
    expected = {"p0": "a", "p7": "of process 1", "p8": "of process 1", "p9": "of process 1"}
    assert {record.id: record.text for record in read_responses(tmp_path)} == expected, "before the run has ended"
    kept = path.read_bytes() + (tmp_path / "responses.1.jsonl").read_bytes()
    owner = records(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "generation.json", "responses.jsonl", "responses.translated.jsonl",
    ]  # fmt: skip
    assert {record.id for record in owner.known.values()} == expected.keys()
    path.write_bytes(kept[: kept.rindex(b"\n") + 1])  # as if killed after writing and before removing
    (tmp_path / "responses.1.jsonl").write_bytes(kept[kept.index(b"\n") + 1 :])
    assert {record.id for record in records(tmp_path).known.values()} == expected.keys() - {"p9"}


def test_an_answer_after_an_error_that_another_process_left_stays(tmp_path):
    """Its lines are older than those of this run, so they come first."""
    filled(tmp_path, [])
    error = Record.of(request(), Response("", "error", None, None, error="HTTP 500"), tokens=False)
    (tmp_path / "responses.3.jsonl").write_text(error.line() + "\n")
    owner = records(tmp_path)
    owner.write(request(), answer("at last"))
    owner.close()
    owner.gather()
    assert [record.text for record in read_responses(tmp_path)] == ["at last"]


@pytest.mark.parametrize(
    ("settings", "tokens", "word"),
    [
        ({**SETTINGS, "model": "other"}, False, "settings.model was 'toy' and is now 'other'"),
        ({**SETTINGS, "decoding": {"temperature": 1.0, "stop": (1, 2)}}, False, "settings.decoding.temperature was 0.0"),
        (SETTINGS, True, "tokens was False and is now True"),
    ],
)
def test_a_folder_is_of_one_model_and_its_settings(tmp_path, settings, tokens, word):
    before = filled(tmp_path).read_bytes()
    records(tmp_path, {**SETTINGS, "decoding": {"temperature": 0, "stop": [1, 2]}})  # 0 is 0.0, and JSON has lists
    with pytest.raises(InputError, match=r"holds answers of other settings: ") as refused:
        records(tmp_path, settings, tokens=tokens)
    assert word in str(refused.value)
    assert (tmp_path / "responses.jsonl").read_bytes() == before


def test_keys_are_made_of_the_settings_that_are_kept(tmp_path):
    filled(tmp_path)
    assert json.dumps(records(tmp_path, {"model": "toy", "decoding": {"temperature": 0, "stop": [1, 2]}}).settings) == json.dumps(
        {"model": "toy", "decoding": {"temperature": 0.0, "stop": [1, 2]}}
    )


def test_what_is_no_folder_of_answers_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "metrics.jsonl").write_text("")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "generation.json").write_text("{")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "generation.partial").write_text("{")
    for name, words in {"file": "is a file", "training": r"something else \(metrics.jsonl\)", "broken": "is not JSON"}.items():
        with pytest.raises(InputError, match=words):
            records(tmp_path / name)
    with pytest.raises(InputError, match=r"has no generation\.json: give the --output folder"):
        read_responses(tmp_path / "training")
    records(tmp_path / "begun")  # killed as it wrote its first file
    assert read_responses(tmp_path / "begun") == []


def test_a_bucket_holds_answers_too(folder):
    filled(folder, ["a", "b"])
    owner = records(folder)
    owner.write(request(2), answer("c"))
    owner.close()
    other = Lines(folder / "responses.1.jsonl")
    other.write(Record.of(request(3), answer("d"), tokens=False).line())
    other.close()
    assert {record.text for record in records(folder).known.values()} == {"a", "b", "c", "d"}
    assert sorted(os.fspath(path.name) for path in folder.iterdir()) == ["generation.json", "responses.jsonl"]
