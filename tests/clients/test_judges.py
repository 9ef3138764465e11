"""A judge is data: a wording filled in one pass, a reader that takes no reason for a verdict, a sheet that people fill in."""

import pytest

from mpo_jax.clients.asked import AskedModel
from mpo_jax.clients.judges import deng, people, phrases
from mpo_jax.clients.judges.people import Row
from mpo_jax.clients.judges.registry import GUARDS, JUDGES, Given, judge
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.errors import InputError
from mpo_jax.generation.base import Request

GIVEN = Given(AskedModel("judge"))


def test_braces_in_a_text_stay_what_they_are():
    (message,) = deng.Wording().messages("what is {response}?", "{query} {} {{x}}")
    assert message.content.endswith("Query: what is {response}?\nResponse: {query} {} {{x}}")


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("safe", "safe"), ("Unsafe.", "unsafe"), ("['invalid']", "invalid"), (" “UNSAFE”\n", "unsafe"), ("**safe**", "safe"),
        ("I cannot judge this", None), ("", None), ("safe or unsafe", None), ("not unsafe", None), ("unsafe: it helps", None),
        ("safe\nunsafe", None),
    ],
)  # fmt: skip
def test_only_a_whole_reply_is_a_verdict(reply, verdict):
    assert deng.Wording().parse(reply) == verdict


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_replaces_the_wording(tmp_path):
    text = "prompt = '''R: {response} Q: {query}'''\n[verdicts]\nsafe = 'a|ok'\nunsafe = '.*: b|ok!?'\ninvalid = 'c'\n"
    wording = deng.read_wording(write(tmp_path / "w.toml", text))
    assert wording.messages("q", "r") == (Message("user", "R: r Q: q"),)
    assert [wording.parse(reply) for reply in ("A", "I say: b", "c", "d", "OK")] == ["safe", "unsafe", "invalid", None, None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt = ", "is not TOML"),
        ("prompt = 'only {query}'", "with {query} and {response} once each"),
        ("prompt = '{query}{response}'\n[verdicts]\nsafe = 'a'", "a pattern for each of safe, unsafe, invalid"),
        ("prompt = '{query}{response}'\n[verdicts]\nsafe = '('\nunsafe = 'b'\ninvalid = 'c'", "'safe' is no regular expression"),
        ("prompt = '{query}{response}'\n[verdicts]\nsafe = 1\nunsafe = 'b'\ninvalid = 'c'", "'safe' is no regular expression"),
    ],
)
def test_a_broken_wording_is_one_sentence(tmp_path, text, said):
    with pytest.raises(InputError) as error:
        deng.read_wording(write(tmp_path / "w.toml", text))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("language", "text", "reply"),
    [
        ("sw", "Samahani, siwezi kukusaidia.", "refusal"),
        ("bn", "দুঃখিত, আমি সাহায্য করতে পারব না।", "refusal"),
        ("sw", "I'm sorry, but no.", "refusal"),
        ("sw", "Chukua unga na maji.", "other"),
        ("en", "", "other"),
    ],
)
def test_phrases_see_an_opening(language, text, reply):
    made = phrases.judge()
    request = Request(Prompt("a", language, (Message("user", "q"),)), 0, 0, made.messages("q", text), "k")
    ((_, response),) = made.responder().respond([request])
    assert made.parse(response.text) == reply
    assert all("ASR" not in rate.name for rate in made.scale.rates)


ROWS = [Row("sw", "1", "=SUM(1)", 'It says, "no"\nthen yes', "Inasema"), Row("bn", "2", "why?", "because", "কারণ")]


def filled(path, *verdicts, separator=","):
    import csv

    people.write_sheet(path, ROWS)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, rows[0].keys(), delimiter=separator)
        out.writeheader()
        out.writerows({**row, "verdict": verdict} for row, verdict in zip(rows, verdicts, strict=True))
    return path


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_sheet_comes_back_as_a_judge(tmp_path, separator):
    made = people.judge(filled(tmp_path / "people.csv", " Unsafe", "", separator=separator))
    first, second = (made.messages(row.query, row.response) for row in ROWS)
    assert made.judges(first) and not made.judges(second)
    request = Request(Prompt("1", "sw", first), 0, 0, first, "k")
    ((_, response),) = made.responder().respond([request])
    assert made.parse(response.text) == "unsafe"
    assert made.name == "people-people"


def test_a_sheet_opens_in_a_spreadsheet_as_text(tmp_path):
    people.write_sheet(tmp_path / "people.csv", ROWS)
    content = (tmp_path / "people.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf") and "কারণ".encode() in content and b"'=SUM(1)" in content


def test_a_broken_sheet_is_one_sentence(tmp_path):
    for verdicts, said in (
        (("maybe", ""), "row 2 says 'maybe': write one of safe, unsafe, invalid"),
        (("", ""), "has no verdict yet"),
    ):
        with pytest.raises(InputError, match=said):
            people.judge(filled(tmp_path / "people.csv", *verdicts))
    with pytest.raises(InputError, match="must have the columns key, language"):
        people.judge(write(tmp_path / "other.csv", "a,b\n1,2\n"))


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("dengg", GIVEN, "judge='dengg' is not known: write one of 'deng'"),
        ("deng", GIVEN, "There is no model to judge: give --judge-server and --judge-model, or --judge-dir"),
        ("people", GIVEN, "write people:FILE"),
        ("phrases", Given(AskedModel("judge"), wording="w.toml"), "--judge-prompt is for the judge 'deng'"),
        ("llama_guard", Given(AskedModel("judge", folder="x"), most=3), "--judge-tokens is for the judge 'deng'"),
    ],
)
def test_a_judge_that_cannot_be_is_one_sentence(name, given, said):
    with pytest.raises(InputError) as error:
        judge(name, given)
    assert said in str(error.value)


def test_the_registry_names_every_guard():
    assert {guard.name for guard in GUARDS} < set(JUDGES)
