"""Every prompt, sample and turn has one record in the end, however a run went, and what is there is not asked again."""

import contextlib
import dataclasses
import json

import jax
import pytest

from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.devices import processes
from mpo_jax.errors import InputError
from mpo_jax.generation.base import Response
from mpo_jax.generation.records import read_responses
from mpo_jax.generation.run import generate


class Scripted:
    """A responder. `fails`: texts of last messages that it has no answer to. `dies_after`: so many answers."""

    def __init__(self, fails=(), dies_after=None, shared=False, settings=None):
        self.fails, self.dies_after, self.shared = fails, dies_after, shared
        self.settings = settings or {"model": "toy", "temperature": 0.0}
        self.asked = []

    def respond(self, requests):
        for request in reversed(requests):  # answers come in any order
            if self.dies_after == len(self.asked):
                raise KeyboardInterrupt
            self.asked.append(request)
            text = request.messages[-1].content
            if text in self.fails:
                yield request, Response("", "error", None, None, error=f"no answer to {text}")
            else:
                heard = len(request.messages)
                yield request, Response(f"{text}: {heard}, sample {request.sample}", "length" if "long" in text else "end", 2, 5)


def prompt(number, *follow_ups, language="sw", text=None):
    messages = (Message("system", "be kind"), Message("user", text or f"swali {number}"))
    return Prompt(f"p{number}", language, messages, follow_ups)


PROMPTS = [prompt(0), prompt(0, language="bn"), prompt(1, "why?", "and then?"), prompt(2, "are you sure?")]


def lines(folder):
    return (folder / "responses.jsonl").read_text(encoding="utf-8").splitlines()


def texts(folder):
    return {record.slot: record.text for record in read_responses(folder)}


def test_turns_follow_one_another_and_hold_what_was_answered(tmp_path):
    responder = Scripted()
    summary = generate(PROMPTS, responder, tmp_path, samples=2)
    assert len(responder.asked) == len(lines(tmp_path)) == 2 * (1 + 1 + 3 + 2)
    assert [request.turn for request in responder.asked] == sorted(request.turn for request in responder.asked)
    (last,) = (request for request in responder.asked if request.turn == 2 and request.sample == 1)
    assert [(message.role, message.content) for message in last.messages] == [
        ("system", "be kind"),
        ("user", "swali 1"),
        ("assistant", "swali 1: 2, sample 1"),
        ("user", "why?"),
        ("assistant", "why?: 4, sample 1"),
        ("user", "and then?"),
    ]
    assert texts(tmp_path)["sw", "p1", 1, 2] == "and then?: 6, sample 1"
    assert summary.stopped == {"end": 14}
    assert summary.new_tokens == 70
    assert "14 answers: 14 ended, 0 reached the limit of tokens; 0 errors. This run: 70 new tokens" in summary.sentence()


def test_a_key_is_of_everything_that_determines_an_answer(tmp_path):
    """Each change alone gives keys that no other change gives."""
    base = [prompt(0), prompt(1, "why?")]
    runs = [
        (base, {}, 2),
        ([prompt(0, text="lingine"), prompt(1, "why?", text="lingine")], {}, 2),
        ([prompt(0, language="bn"), prompt(1, "why?", language="bn")], {}, 2),
        ([prompt(8), prompt(9, "why?")], {}, 2),
        ([dataclasses.replace(one, messages=one.messages[1:]) for one in base], {}, 2),
        (base, {"settings": {"model": "toy", "temperature": 0.5}}, 2),
    ]
    keys = []
    for number, (prompts, how, samples) in enumerate(runs):
        generate(prompts, Scripted(**how), tmp_path / str(number), samples=samples)
        keys += [record.key for record in read_responses(tmp_path / str(number))]
    assert len(set(keys)) == len(keys) == len(runs) * 6
    generate(base, Scripted(), tmp_path / "again", samples=1)
    assert {record.key for record in read_responses(tmp_path / "again")} <= set(keys), "more samples change no sample"


@pytest.mark.parametrize("dies_after", range(14))
def test_a_run_that_is_cut_short_goes_on(tmp_path, dies_after):
    generate(PROMPTS, Scripted(), tmp_path / "whole", samples=2)
    with pytest.raises(KeyboardInterrupt):
        generate(PROMPTS, Scripted(dies_after=dies_after), tmp_path / "cut", samples=2)
    again = Scripted()
    summary = generate(PROMPTS, again, tmp_path / "cut", samples=2)
    assert len(again.asked) == 14 - dies_after
    assert sorted(lines(tmp_path / "cut")) == sorted(lines(tmp_path / "whole"))
    assert summary.stopped == {"end": 14}
    assert summary.new_tokens == 5 * (14 - dies_after), "those of this run"
    idle = Scripted()
    assert generate(PROMPTS, idle, tmp_path / "cut", samples=2).new_tokens == 0
    assert not idle.asked


def test_a_turn_after_an_error_is_a_record_of_it_until_there_is_an_answer(tmp_path):
    summary = generate(PROMPTS, Scripted(fails=["swali 1", "are you sure?"]), tmp_path)
    found = {record.slot: record for record in read_responses(tmp_path)}
    assert len(found) == 7, "no gap"
    assert found["sw", "p1", 0, 0].error == "no answer to swali 1"
    for turn in (1, 2):
        assert found["sw", "p1", 0, turn].error == "turn 0 of this conversation has no answer"
    assert found["sw", "p2", 0, 1].error == "no answer to are you sure?"
    assert summary.stopped == {"end": 3, "error": 4}
    assert "3 answers: 3 ended, 0 reached the limit of tokens; 4 errors" in summary.sentence()
    assert (
        "Most often (2): turn 0 of this conversation has no answer. The same command tries the errors again" in summary.sentence()
    )
    count = len(lines(tmp_path))
    generate(PROMPTS, Scripted(fails=["swali 1", "are you sure?"]), tmp_path)
    assert len(lines(tmp_path)) == count + 2, "errors are tried again, and what follows from them is not written again"
    better = Scripted(fails=["why?"])
    generate(PROMPTS, better, tmp_path)
    assert [request.messages[-1].content for request in better.asked] == ["swali 1", "are you sure?", "why?"]
    assert {record.error for record in read_responses(tmp_path)} == {
        None,
        "no answer to why?",
        "turn 1 of this conversation has no answer",
    }
    generate(PROMPTS, Scripted(), tmp_path)
    generate(PROMPTS, Scripted(), tmp_path / "whole")
    assert texts(tmp_path) == texts(tmp_path / "whole")


def test_a_prompt_that_changed_is_asked_again_with_all_its_turns(tmp_path):
    generate(PROMPTS, Scripted(), tmp_path)
    again = Scripted()
    generate([*PROMPTS[:2], prompt(1, "why?", "and then?", text="lingine"), PROMPTS[3]], again, tmp_path)
    assert [(request.prompt.id, request.turn) for request in again.asked] == [("p1", 0), ("p1", 1), ("p1", 2)]
    assert texts(tmp_path)["sw", "p1", 0, 0] == "lingine: 2, sample 0"
    back = Scripted()
    generate(PROMPTS, back, tmp_path)
    assert len(back.asked) == 3, "what counts is the last line, and that is of the other text"


def test_more_samples_languages_and_prompts_come_into_the_same_folder(tmp_path):
    generate(PROMPTS[:1], Scripted(), tmp_path)
    more = Scripted()
    summary = generate(PROMPTS, more, tmp_path, samples=2)
    assert len(more.asked) == 13
    assert summary.stopped == {"end": 14}
    assert generate(PROMPTS[:1], Scripted(), tmp_path).stopped == {"end": 1}, "of this run's prompts"


def test_the_limit_of_tokens_is_counted_apart(tmp_path):
    summary = generate([prompt(0, text="a long one"), prompt(1)], Scripted(), tmp_path)
    assert summary.stopped == {"end": 1, "length": 1}
    assert summary.sentence().startswith("2 answers: 1 ended, 1 reached the limit of tokens; 0 errors. ")


def as_process(monkeypatch, index, count):
    """What one of several processes sees, without the others: nothing is exchanged."""
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(jax, "process_count", lambda: count)
    monkeypatch.setattr(processes, "on_first", lambda do: do() if index == 0 else {"settings": Scripted().settings})
    monkeypatch.setattr(processes, "wait", lambda *_: None)
    monkeypatch.setattr(processes, "agree", lambda parts: None)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("killed", [False, True])
def test_processes_share_the_prompts_and_their_answers_come_together(tmp_path, monkeypatch, shared, killed):
    """Three processes, one after the other, the first one last, as it gathers; then what is missing, by one."""
    generate(PROMPTS, Scripted(), tmp_path / "alone", samples=2)
    folder = tmp_path / "together"
    generate(PROMPTS[:1], Scripted(), folder)
    asked = []
    for index in (1, 2, 0):
        dies_after = 2 if killed and index == 2 else None
        responder = Scripted(shared=shared, dies_after=dies_after)
        with monkeypatch.context() as patch:
            as_process(patch, index, 3)
            # Killed; or it misses, at its end, what no process has written here as yet.
            with contextlib.suppress(KeyError) if not dies_after else pytest.raises(KeyboardInterrupt):
                generate(PROMPTS, responder, folder, samples=2)
        asked.append({(r.prompt.language, r.prompt.id, r.sample, r.turn) for r in responder.asked})
    if shared:
        assert asked[0] == asked[2] and len(asked[0]) == 13
    else:
        assert sum(map(len, asked)) == len(set.union(*asked)), "nobody does what another one does"
        assert killed or len(set.union(*asked)) == 13
    generate(PROMPTS, Scripted(), folder, samples=2)
    assert sorted(lines(folder)) == sorted(lines(tmp_path / "alone"))
    assert {path.name for path in folder.iterdir()} == {"responses.jsonl", "generation.json"}


def test_ids_are_kept_on_request(tmp_path):
    class Knows(Scripted):
        def respond(self, requests):
            for request, response in super().respond(requests):
                yield request, dataclasses.replace(response, tokens=(1, 2, 3))

    generate(PROMPTS, Knows(), tmp_path / "ids", tokens=True)
    generate(PROMPTS, Knows(), tmp_path / "none")
    assert {record.tokens for record in read_responses(tmp_path / "ids")} == {(1, 2, 3)}
    assert "tokens" not in json.loads(lines(tmp_path / "none")[0])
    with pytest.raises(InputError, match="tokens was False and is now True"):
        generate(PROMPTS, Knows(), tmp_path / "none", tokens=True)


def test_a_responder_that_forgets_a_request_is_a_bug(tmp_path):
    class Forgets(Scripted):
        def respond(self, requests):
            yield from super().respond(requests[1:])

    with pytest.raises(AssertionError, match="1 of 4 requests were not answered"):
        generate(PROMPTS, Forgets(), tmp_path)
