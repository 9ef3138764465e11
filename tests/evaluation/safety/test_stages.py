"""Each stage does what is missing from the files before it; whatever a judge's server does is a verdict or has a name."""

import csv
import dataclasses
import json

import pytest

pytest.importorskip("openai", reason="a served model needs openai: pip install -r requirements-server.txt")

from fake_clients import meaning, say
from fake_endpoint import MODEL, Asked, Reply, answer, served

from mpo_jax.clients.judges import deng, llama_guard, people, phrases
from mpo_jax.clients.judges.base import TWO_CLASSES, Judge
from mpo_jax.clients.translators import server
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.errors import InputError
from mpo_jax.evaluation.safety.stages import Study
from mpo_jax.generation.base import Decoding, Response
from mpo_jax.generation.patience import Patience
from mpo_jax.generation.run import generate
from mpo_jax.generation.server import ServedModel

QUICK = Patience(attempts=3, busy_attempts=5, first=0.01, longest=0.05, timeout=0.5)
SWAHILI = "Chukua unga na maji safi, kisha uchanganye vizuri sana kwa mkono wako"


class Model:
    """Answers with what `texts` says, by the prompt's language and id. None: an error."""

    shared = False
    settings = {"model": "scripted"}  # noqa: RUF012

    def __init__(self, texts):
        self.texts = texts

    def respond(self, requests):
        for request in requests:
            text = self.texts[request.prompt.language, request.prompt.id]
            yield request, Response("", "error", None, None, error="too long") if text is None else Response(text, "end", 1, 2)


def prompts(*languages, count=3):
    return [Prompt(f"{n}", name, (Message("user", f"{name} question {n}"),)) for n in range(count) for name in languages]


def study(folder, asked, texts, translator=None, compare=None, every=None):
    made = Study(folder, asked, every or asked, 1, translator)
    generate(asked, Model(texts), made.responses("model"))
    if compare is not None:
        generate(asked, Model(compare), made.responses("compare"))
    return made


def judge_of(endpoint):
    return deng.judge(
        lambda: ServedModel(endpoint.url, MODEL, Decoding(max_new_tokens=16), patience=QUICK), deng.Wording(), MODEL
    )


def translator_of(endpoint):
    return server.translator(lambda: ServedModel(endpoint.url, MODEL, Decoding(max_new_tokens=64), patience=QUICK), "en", MODEL)


# What a server does with the judging of a response that holds this word, and what becomes of it.
HOW = {
    "late": lambda asked: answer(asked, "safe", delay=1.0 if asked.nth == 1 else 0.0),
    "busy": lambda asked: answer(asked, "unsafe") if asked.nth > 2 else Reply({}, 429, {"Retry-After": "0"}),
    "broken": lambda asked: Reply({"error": "internal"}, 500),
    "once": lambda asked: answer(asked, "invalid") if asked.nth > 1 else Reply({}, 500),
    "cut": lambda asked: Reply(b'{"choices": [{"mess', promised=100),
    "half": lambda asked: Reply(b'{"choices": [{"mess'),
    "dressed": lambda asked: answer(asked, "Unsafe."),
    "declined": lambda asked: answer(asked, "I cannot judge this"),
    "empty": lambda asked: answer(asked, ""),
    "filtered": lambda asked: answer(asked, "", "content_filter"),
    "never": lambda asked: answer(asked, "safe", delay=1.0),
}
BECOMES = {
    "late": "safe", "busy": "unsafe", "broken": "HTTP 500", "once": "invalid", "cut": "no connection", "half": "no answer",
    "dressed": "unsafe", "declined": "unparsed", "empty": "unparsed", "filtered": "content_filter", "never": "no answer within",
}  # fmt: skip


def misbehave(asked: Asked) -> Reply:
    return HOW[asked.text.rpartition(" ")[2]](asked)


def test_whatever_a_judges_server_does_has_a_name_and_the_rates_are_those_by_hand(tmp_path):
    asked = [Prompt(word, "en", (Message("user", "q"),)) for word in HOW]
    made = study(tmp_path, asked, {("en", word): f"a response that is {word}" for word in HOW})
    with served(misbehave) as endpoint:
        judge = judge_of(endpoint)
        made.judge(judge)
        said = {v.exchange.id: v.said or v.missing for v in made.verdicts(judge)["model"]}
        for word, end in BECOMES.items():
            assert end == said[word] or end in said[word], (word, said[word])
        shown = made.tabulate(judge)
        before = len(endpoint.asked)
        made.judge(judge)
        again = {one.text.rpartition(" ")[2] for one in endpoint.asked[before:]}
        assert again == {"broken", "cut", "half", "filtered", "never"}, "only failures are tried again"
    whole = json.loads((tmp_path / "asr.json").read_text())
    (line,) = whole["models"]["model"]["lines"]
    assert line["verdicts"] == {"safe": 1, "unsafe": 2, "invalid": 1}
    assert (line["exchanges"], line["unparsed"], sum(line["missing"].values())) == (11, 2, 5)
    assert line["rates"]["asr_paper"]["value"] == 3 / 4
    assert line["rates"]["asr_deng"]["value"] == 2 / 4
    assert "75.0 [" in shown and "50.0 [" in shown and "missing, most often (1 in en): no verdict: " in shown
    log = [json.loads(text) for text in (tmp_path / "model/verdicts/deng-toy.jsonl").read_text().splitlines()]
    assert {one["id"]: one["reply"] for one in log}["declined"] == "I cannot judge this", "the text that is no verdict is kept"
    parsed = [one["said"] for one in log if one["said"] in ("safe", "unsafe", "invalid")]
    assert sum(verdict != "safe" for verdict in parsed) / len(parsed) == 3 / 4, "as anybody can count"


def test_the_query_is_the_english_original_and_the_response_is_translated(tmp_path):
    every = prompts("en", "sw", count=1)
    texts = {("sw", "0"): SWAHILI}
    with served(say) as endpoint:
        made = study(tmp_path, every[1:], texts, translator_of(endpoint), every=every)
        judge = judge_of(endpoint)
        made.translate(judge.languages)
        made.judge(judge)
        (translated,), (judged,) = ([a.text for a in endpoint.asked if a.text.startswith(w)] for w in ("Translate", "Given"))
    assert translated.endswith(f"\n\n{SWAHILI}")
    assert judged.endswith(f"Query: en question 0\nResponse: {meaning(SWAHILI)}")


def test_without_an_original_the_query_is_translated_too(tmp_path):
    asked = [Prompt("0", "sw", (Message("user", "Swali refu kuhusu chakula"),))]
    with served(say) as endpoint:
        made = study(tmp_path, asked, {("sw", "0"): SWAHILI}, translator_of(endpoint))
        judge = judge_of(endpoint)
        made.translate(judge.languages)
        made.judge(judge)
        assert endpoint.asked[-1].text.endswith(f"Query: {meaning('Swali refu kuhusu chakula')}\nResponse: {meaning(SWAHILI)}")


def guard(responder=None):
    """One that knows German."""
    return Judge(
        "guard", TWO_CLASSES, llama_guard.GUARD.languages, lambda q, r: (Message("user", q), Message("assistant", r)),
        llama_guard.GUARD.parse, responder or (lambda: Model({})),
    )  # fmt: skip


def test_a_guard_reads_what_it_knows_as_written_and_the_rest_in_english(tmp_path):
    every = prompts("en", "de", "sw", count=1)
    texts = {("en", "0"): "Good day to you", ("de", "0"): "Guten Tag, mein lieber alter Freund", ("sw", "0"): SWAHILI}
    with served(say) as endpoint:
        made = study(tmp_path, every, texts, translator_of(endpoint))
        made.translate(guard().languages)
        assert len(endpoint.asked) == 1
    read = {r.response: r.query for r in made.readings("guard", guard().languages)["model"]}
    assert read == {
        "Good day to you": "en question 0",
        "Guten Tag, mein lieber alter Freund": "de question 0",
        meaning(SWAHILI): "en question 0",
    }


def test_a_guard_without_a_translator_refuses_what_it_does_not_know(tmp_path):
    made = study(tmp_path, prompts("de", "sw"), {(name, str(n)): "x" for name in ("de", "sw") for n in range(3)})
    with pytest.raises(
        InputError, match=r"'guard' does not know 'sw' \(it reads de, en, .*\): give a translator with --translate"
    ):
        made.judge(guard())


def test_what_cannot_be_read_is_missing_with_its_reason(tmp_path):
    def quiet(asked: Asked) -> Reply:
        return answer(asked, "") if asked.text.startswith("Translate") else say(asked)

    asked = prompts("sw", count=3)
    texts = {("sw", "0"): None, ("sw", "1"): SWAHILI, ("sw", "2"): "Good day to you, my friend."}
    with served(quiet) as endpoint:
        made = study(tmp_path, asked, texts, translator_of(endpoint), every=[*prompts("en"), *asked])
        judge = judge_of(endpoint)
        made.translate(judge.languages)
        made.judge(judge)
        said = {v.exchange.id: v.missing for v in made.verdicts(judge)["model"]}
        made.tabulate(judge)
    assert said == {"0": "no answer: too long", "1": "an empty translation", "2": None}
    assert json.loads((tmp_path / "asr.json").read_text())["findings in translations"] == {"sw": {"emptied": 1}}
    (line,) = (tmp_path / "translations" / f"server-{MODEL}.findings.jsonl").read_text().splitlines()
    assert json.loads(line)["findings"] == ["emptied"]


def test_the_answers_of_two_models_are_translated_once_and_compared(tmp_path):
    asked = prompts("sw", count=3)
    texts = {("sw", str(n)): f"{SWAHILI} {n % 2}" for n in range(3)}
    other = texts | {("sw", "2"): "Samahani, siwezi kukusaidia na jambo hilo kabisa"}
    with served(say) as endpoint:
        made = study(tmp_path, asked, texts, translator_of(endpoint), other, every=[*prompts("en"), *asked])
        judge = judge_of(endpoint)
        made.translate(judge.languages)
        assert sum(one.text.startswith("Translate") for one in endpoint.asked) == 3
        made.judge(judge)
        made.tabulate(judge)
    whole = json.loads((tmp_path / "asr.json").read_text())
    assert whole["models"].keys() == {"before", "after"}
    assert whole["after minus before"]["asr_paper"].keys() == {"sw", "average"}
    assert (tmp_path / "asr.png").is_file()


def test_answers_to_another_text_of_a_prompt_do_not_count(tmp_path):
    asked = prompts("en", count=2)
    made = study(tmp_path, asked, {("en", "0"): "a", ("en", "1"): "b"})
    changed = [dataclasses.replace(asked[0], messages=(Message("user", "another"),)), asked[1]]
    again = Study(tmp_path, changed, changed, 1, None)
    assert [one.missing for one in again.answers["model"]] == ["not answered yet", None]
    judge = phrases.judge()
    made.judge(judge)
    said = again.verdicts(judge)["model"]
    assert [(v.said, v.missing) for v in said] == [(None, "not answered yet"), ("other", None)]


def test_the_same_question_is_asked_once(tmp_path):
    """A model often refuses in English whatever it is asked in."""
    asked = prompts("sw", "bn", "ko")
    texts = {(p.language, p.id): "I'm sorry, I can't help you with that." for p in asked}
    for translates in (True, False):
        with served(say) as endpoint:
            folder = tmp_path / str(translates)
            made = study(folder, asked, texts, translator_of(endpoint) if translates else None, every=[*prompts("en"), *asked])
            made.judge(judge_of(endpoint))
            assert len(endpoint.asked) == 3, "one for each English query"
            assert len(made.verdicts(judge_of(endpoint))["model"]) == 9


def test_another_wording_is_asked_anew(tmp_path):
    made = study(tmp_path, prompts("en", count=1), {("en", "0"): "a"})
    with served(say) as endpoint:
        judge = judge_of(endpoint)
        made.judge(judge)
        other = dataclasses.replace(judge, messages=deng.Wording("{response} {query}?").messages)
        assert made.verdicts(other)["model"][0].missing == "not judged yet"
        made.judge(other)
        assert len(endpoint.asked) == 2


def test_people_judge_a_sample_and_agree_with_a_judge(tmp_path):
    asked = prompts("en", "sw", count=4)
    texts = {(p.language, p.id): f"{SWAHILI} {p.id}" if p.language == "sw" else f"Take some flour, {p.id}" for p in asked}
    with served(say) as endpoint:
        made = study(tmp_path, asked, texts, translator_of(endpoint), texts)
        judge = judge_of(endpoint)
        made.translate(None)
        assert made.sample_for_people(tmp_path / "people.csv", 5) == 5
        made.judge(judge)
    with (tmp_path / "people.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["key"] for row in rows}) == 5, "the same answer of two models is judged once"
    assert sorted(row["language"] for row in rows) in (["en", "en", "sw", "sw", "sw"], ["en", "en", "en", "sw", "sw"])
    assert all(row["as_written"].startswith("Chukua") == (row["language"] == "sw") for row in rows)
    with pytest.raises(InputError, match="is there, perhaps with verdicts"):
        made.sample_for_people(tmp_path / "people.csv", 5)
    with (tmp_path / "people.csv").open("w", encoding="utf-8", newline="") as file:
        lines = csv.DictWriter(file, rows[0].keys())
        lines.writeheader()
        lines.writerows({**row, "verdict": "safe"} for row in rows)
    filled = people.judge(tmp_path / "people.csv")
    made.judge(filled)
    said = made.verdicts(filled)
    assert [len(verdicts) for verdicts in said.values()] == [5, 5]
    assert {v.said for v in said["before"]} == {"safe"}
    assert "agree on" in made.tabulate(judge, second=filled)


def test_a_stage_without_the_one_before_is_one_sentence(tmp_path):
    empty = Study(tmp_path / "none", prompts("en"), prompts("en"), 1, None)
    with pytest.raises(InputError, match="has no answers: run the command with --model, or with --stage responses first"):
        empty.judge(phrases.judge())
    made = study(tmp_path, prompts("en"), {("en", str(n)): "a" for n in range(3)})
    with pytest.raises(InputError, match="There is no translator"):
        made.translate(None)
    with pytest.raises(InputError, match=r"no verdicts of the judge 'phrases' on model: run the command with --stage verdicts"):
        made.verdicts(phrases.judge())
    made.judge(phrases.judge())
    with pytest.raises(InputError, match=r"of the judge 'guard' on model \(there are those of phrases\)"):
        made.verdicts(guard())
