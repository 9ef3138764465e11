"""A served model is asked for every answer until it comes, and what never comes is a record that says why."""

import asyncio
import collections
import datetime
import email.utils
import gc
import json
import os
import subprocess
import sys
import time

import pytest
import toy_chat
from fake_endpoint import MODEL, Asked, Reply, answer, echo, first_token, served, wait_until
from processes import ROOT, finish, free_port, start_command

pytest.importorskip("openai", reason="a served model needs openai: pip install -r requirements-server.txt")

from mpo_jax import generate as command
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.errors import InputError
from mpo_jax.generation import completions
from mpo_jax.generation.base import Decoding, Request
from mpo_jax.generation.patience import Limit, Patience, retry_after
from mpo_jax.generation.records import read_responses
from mpo_jax.generation.run import generate
from mpo_jax.generation.server import Rendering, ServedModel

QUICK = Patience(attempts=4, busy_attempts=30, first=0.01, longest=0.1, timeout=0.5)
FORMAT = Rendering(lambda messages: "".join(f"<{m.role}>{m.content}" for m in messages), {"template": "toy"}, (7, 9))


def prompts(count, *follow_ups):
    return [Prompt(f"p{n}", "sw", (Message("user", f"swali {n}"),), follow_ups) for n in range(count)]


def request(prompt=None, sample=0, turn=0):
    prompt = prompt or prompts(1)[0]
    return Request(prompt, sample, turn, prompt.messages, "k")


def model(endpoint, decoding=None, **how):
    how = {"patience": QUICK, **how}
    return ServedModel(endpoint.url, MODEL, decoding or Decoding(max_new_tokens=9), **how)


def one(endpoint, **how):
    """The only answer to the only request."""
    ((_, response),) = model(endpoint, **how).respond([request()])
    return response


def test_the_chat_endpoint_gets_messages_and_the_other_gets_what_is_rendered_here():
    decoding = Decoding(temperature=0.5, top_p=0.9, top_k=20, max_new_tokens=9, seed=3)
    with served() as endpoint:
        for rendering in (None, FORMAT):
            ((_, response),) = model(endpoint, decoding, rendering=rendering).respond([request()])
            assert response.stopped == "end"
            assert response.text.startswith("jibu kwa ")
            assert (response.prompt_tokens, response.new_tokens) == (2, 6)
        chat, plain = endpoint.asked
    assert (chat.path, plain.path) == ("/v1/chat/completions", "/v1/completions")
    seed = chat.body.pop("seed")
    assert plain.body.pop("seed") == seed and 0 <= seed < 2**31
    common = {"model": MODEL, "temperature": 0.5, "top_p": 0.9, "top_k": 20, "max_tokens": 9}
    assert chat.body == {**common, "messages": [{"role": "user", "content": "swali 0"}]}
    assert plain.body == {**common, "prompt": "<user>swali 0", "stop_token_ids": [7, 9]}


def test_top_k_of_zero_is_not_sent_and_settings_say_what_was():
    with served() as endpoint:
        one(endpoint)
        assert "top_k" not in endpoint.asked[0].body
        by_server, here = model(endpoint).settings, model(endpoint, rendering=FORMAT).settings
        assert endpoint.url not in json.dumps(by_server)
    decoding = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 9, "seed": 0}
    assert by_server == {"served model": MODEL, "rendered": "by the server", "decoding": decoding}
    form = {"format": {"template": "toy"}, "stop_ids": [7, 9]}
    assert here == {"served model": MODEL, "rendered": "here", "decoding": decoding, **form}


def test_log_probabilities_of_the_first_token_are_asked_for_and_kept(tmp_path):
    told = {"m": -0.2, "\ufffd": -2.5, chr(0xD83D): -2.0, "M": -3.0}
    with served(lambda asked: first_token(asked, told)) as endpoint:
        asking = model(endpoint, top_logprobs=3)
        generate(prompts(1), asking, tmp_path / "out")
        assert (endpoint.asked[0].body["logprobs"], endpoint.asked[0].body["top_logprobs"]) == (True, 3)
    (record,) = read_responses(tmp_path / "out")
    assert (record.text, record.top_logprobs) == ("m", {"m": -0.2, "\ufffd": -2.0, "M": -3.0})
    assert asking.settings["top_logprobs"] == 3 and "top_logprobs" not in model(endpoint).settings


@pytest.mark.parametrize("content", [None, [], [{"token": "m"}], [{"top_logprobs": []}], [{"top_logprobs": [{"token": 3}]}]])
def test_a_reply_without_the_log_probabilities_that_were_asked_for_is_an_error(content):
    def behave(asked):
        reply = first_token(asked, {"m": -0.2})
        reply.body["choices"][0]["logprobs"]["content"] = content
        return reply

    with served(behave) as endpoint:
        response = one(endpoint, top_logprobs=3)
        assert (response.stopped, response.error) == ("error", "a reply without log-probabilities")
        assert one(endpoint).text == "m", "where none were asked for, none are missed"


def test_a_seed_is_of_one_sample_of_one_prompt_at_one_turn():
    asked = [
        (Decoding(seed=seed), request(prompt, sample, turn))
        for seed in (0, 1)
        for prompt in prompts(2)
        for sample in (0, 1)
        for turn in (0, 1)
    ]
    seeds = [completions.fields(MODEL, decoding, one)["seed"] for decoding, one in asked]
    assert len(set(seeds)) == 16
    assert seeds == [completions.fields(MODEL, decoding, one)["seed"] for decoding, one in asked]


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (Reply({"error": {"message": "boom"}}, 500), 'HTTP 500: {"error": {"message": "boom"}}'),
        (Reply({}, 503), "HTTP 503: {}"),
        (Reply({}, 408), "HTTP 408: {}"),
        (Reply(b"<html>\nhi</html>", headers={"Content-Type": "text/html"}), "a reply that is no answer: <html> hi</html>"),
        (Reply(b""), "a reply that is no answer: nothing"),
        (Reply(b"\xff\x00"), "a reply that is no answer: "),
        (Reply([]), "a reply that is no answer: []"),
        (Reply({"choices": []}), 'a reply that is no answer: {"choices": []}'),
        (Reply({"choices": [{"text": "hi"}]}), "a reply that is no answer: "),
        (Reply({"error": {"message": "overloaded"}}), "a reply that is no answer: "),
        (Reply(status=0), "no connection: Server disconnected"),
        (Reply({"choices": []}, promised=10), "no connection: peer closed connection"),
        (Reply({}, delay=5.0), "no answer within 0.5 s"),
    ],
)
def test_what_may_pass_is_asked_again_and_at_last_recorded(first, reason):
    patience = Patience(attempts=3, first=0.01, timeout=0.5)
    with served(lambda asked: first if asked.nth == 1 else echo(asked)) as endpoint:
        assert one(endpoint, patience=patience).text.startswith("jibu kwa swali 0")
        assert len(endpoint.asked) == 2
    with served(lambda asked: first) as endpoint:
        response = one(endpoint, patience=patience)
        assert len(endpoint.asked) == 3
    assert (response.stopped, response.text, response.new_tokens) == ("error", "", None)
    assert response.error.startswith(reason)
    assert response.error.endswith(" (asked 3 times)")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply({"error": {"message": "too long"}}, 400), 'HTTP 400: {"error": {"message": "too long"}}'),
        (Reply({}, 422), "HTTP 422: {}"),
        (Reply({}, 403), "HTTP 403: {}"),  # a firewall may refuse one prompt
        (Reply({"error": {"code": "insufficient_quota"}}, 429), 'HTTP 429: {"error": {"code": "insufficient_quota"}}'),
        (Reply({}, 429, {"Retry-After": "3600"}), "HTTP 429: {}"),
        (Reply({"choices": [{"text": "par", "finish_reason": "content_filter"}]}), "finish_reason 'content_filter'"),
        (Reply({"choices": [{"text": "par", "finish_reason": None}]}), "finish_reason None"),
        (Reply({"choices": [{"text": "par", "finish_reason": ["stop"]}]}), "finish_reason ['stop']"),
        (Reply({"choices": [{"message": {"content": None}, "finish_reason": "length"}]}), "a reply without text"),
    ],
)
def test_what_will_not_pass_is_asked_once(reply, error):
    with served(lambda asked: reply) as endpoint:
        response = one(endpoint)
        assert len(endpoint.asked) == 1
    assert (response.stopped, response.error) == ("error", error)
    assert response.text == ("par" if error.startswith("finish_reason") else "")


@pytest.mark.parametrize(
    ("text", "finish", "stopped", "read"),
    [
        ("", "stop", "end", ""),
        ("long", "length", "length", "long"),
        ("half \ud83d of 🦒", "stop", "end", "half \ufffd of 🦒"),
        (" a\u2028b \n", "stop", "end", " a\u2028b \n"),
    ],
)
def test_an_answer_is_taken_as_it_is(text, finish, stopped, read):
    """An empty one too: a model may end at once."""
    with served(lambda asked: answer(asked, text, finish)) as endpoint:
        response = one(endpoint)
    assert (response.text, response.stopped, response.error) == (read, stopped, None)


def test_counts_that_are_not_told_are_unknown():
    with served(lambda asked: Reply({"choices": [{"text": "a", "finish_reason": "stop"}], "usage": None})) as endpoint:
        response = one(endpoint)
    assert (response.prompt_tokens, response.new_tokens) == (None, None)


def test_a_wait_that_the_server_asks_for_is_kept():
    times = []

    def behave(asked):
        times.append(time.monotonic())
        return Reply({}, 429, {"Retry-After": "0.3"}) if asked.nth == 1 else echo(asked)

    with served(behave) as endpoint:
        assert one(endpoint).stopped == "end"
    assert times[1] - times[0] >= 0.3


def test_a_wait_is_told_in_seconds_or_as_a_date():
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    told = {"3": 3, "0.5": 0.5, "-1": 0, "nan": None, "": None, "soon": None, "Wed, 21 Oct 2015 07:28:00 GMT": 0}
    assert {value: retry_after({"retry-after": value}) for value in told} == told
    assert 97 < retry_after({"retry-after": email.utils.format_datetime(soon, usegmt=True)}) <= 100
    assert retry_after({}) is None


def test_waits_double_up_to_the_longest():
    patience = Patience(first=0.5, longest=10)
    for failures, most in {1: 0.5, 2: 1, 3: 2, 5: 8, 6: 10, 60: 10}.items():
        waits = [patience.wait(failures, None) for _ in range(50)]
        assert most / 2 <= min(waits) < max(waits) <= most
    with pytest.raises(InputError, match="timeout=0 must be above 0"):
        Patience(timeout=0)


def test_a_busy_server_is_asked_by_fewer_at_once_and_slowly_by_more():
    limit = Limit(32)
    together = time.monotonic()
    for _ in range(20):
        limit.busy(together)
    assert limit.now == 16, "those that were under way together count once"
    limit.busy(time.monotonic() + 1)
    assert limit.now == 8
    for _ in range(8):
        limit.succeeded()
    assert limit.now == 9
    for _ in range(1000):
        limit.succeeded()
    assert limit.now == 32
    for _ in range(10):
        limit.busy(time.monotonic() + 1)
    assert limit.now == 1


def test_a_limit_is_kept_and_frees_its_places():
    async def sends():
        limit, inside, most = Limit(8), 0, []

        async def one():
            nonlocal inside
            async with limit.one_more():
                inside += 1
                most.append(inside)
                await asyncio.sleep(0)
                inside -= 1

        limit.busy(time.monotonic())
        limit.busy(time.monotonic() + 1)
        await asyncio.gather(*(one() for _ in range(20)))
        return most

    most = asyncio.run(sends())
    assert (len(most), max(most)) == (20, 2)


def test_a_server_that_bears_four_is_filled_and_not_flooded():
    def behave(asked):
        if endpoint.now > 4:
            return Reply({}, 429)
        time.sleep(0.005)
        return echo(asked)

    with served(behave) as endpoint:
        answers = list(model(endpoint).respond([request(prompt) for prompt in prompts(150)]))
        refused = len(endpoint.asked) - 150
    assert all(response.stopped == "end" for _, response in answers)
    assert refused < 150, f"{refused} refusals"


def test_no_more_are_under_way_than_allowed():
    with served(lambda asked: answer(asked, "a", delay=0.02)) as endpoint:
        list(model(endpoint, concurrency=5).respond([request(prompt) for prompt in prompts(40)]))
        assert endpoint.most == 5


def wild(asked: Asked) -> Reply:
    """Every tenth prompt meets each of these at first, every hundredth some; the others are late. Four never get an answer."""
    number = int(asked.text.split()[-1])
    never = {17: Reply({}, 400), 117: Reply({}, 500), 217: Reply(b"garbage"), 317: Reply({}, delay=5.0)}
    at_first = {
        1: Reply({}, 500),
        2: Reply(b"<html>"),
        4: Reply(status=0),
        5: Reply({"choices": []}),
        6: Reply({"choices": []}, promised=5),
        8: Reply({}, 503, {"Retry-After": "0.02"}),
    }
    if number in never:
        return never[number]
    if asked.nth == 1 and number % 100 == 9:
        return Reply({}, delay=5.0)
    if asked.nth == 1 and number % 100 == 3:
        return Reply({}, 429, {"Retry-After": "0.02"})
    return at_first[number % 10] if asked.nth == 1 and number % 10 in at_first else answer(asked, f"jibu {number}", delay=0.01)


def test_nothing_is_lost_and_nothing_comes_twice(tmp_path):
    """500 prompts through everything that can go wrong; what failed is tried by the next run."""
    with served(wild) as endpoint:
        summary = generate(prompts(500), model(endpoint), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "responses.jsonl").read_text(encoding="utf-8").splitlines()]
    assert collections.Counter(line["id"] for line in lines) == {f"p{n}": 1 for n in range(500)}
    errors = {line["id"]: line["error"] for line in lines if line["stopped"] == "error"}
    assert errors == {
        "p17": "HTTP 400: {}",
        "p117": "HTTP 500: {} (asked 4 times)",
        "p217": "a reply that is no answer: garbage (asked 4 times)",
        "p317": "no answer within 0.5 s (asked 4 times)",
    }
    assert all(line["text"] == f"jibu {line['id'][1:]}" for line in lines if line["stopped"] == "end")
    assert summary.stopped == {"end": 496, "error": 4}
    with served() as endpoint:
        summary = generate(prompts(500), model(endpoint), tmp_path)
        assert len(endpoint.asked) == 4
    assert summary.stopped == {"end": 500}


def test_a_conversation_goes_on_with_what_the_server_said(tmp_path):
    with served(lambda asked: answer(asked, f"jibu kwa {asked.text}")) as endpoint:
        generate(prompts(1, "why?"), model(endpoint), tmp_path)
        assert [message["content"] for message in endpoint.asked[1].body["messages"]] == ["swali 0", "jibu kwa swali 0", "why?"]


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (Reply({"data": [{"id": "a"}, {"id": "b"}]}), "has no model 'toy': write one of those it has, a, b."),
        (Reply({}, 401), "refuses what it is asked (HTTP 401: {})"),
        (Reply({}, 503), "cannot be reached (HTTP 503: {}): start it"),
        (Reply(status=0), "cannot be reached (no connection: Server disconnected"),
        (Reply({}, delay=0, status=404), None),
        (Reply({}, 405), None),
        (Reply(b"<html>"), None),
        (Reply({"data": [{"name": "a"}]}), None),
        (Reply({"data": []}), None),
        (Reply({"data": [{"id": "a"}, {"id": MODEL}]}), None),
    ],
)
def test_a_server_is_asked_for_its_models_first(models, words):
    with served(models=models) as endpoint:
        if words is None:
            model(endpoint).check()
            return
        with pytest.raises(InputError) as refused:
            model(endpoint).check()
    assert words in str(refused.value)
    assert endpoint.url in str(refused.value)


def test_where_nobody_listens_is_a_sentence():
    with served() as endpoint:
        pass
    with pytest.raises(InputError, match=r"cannot be reached \(no connection: .*\): start it"):
        model(endpoint).check()
    with pytest.raises(InputError, match="localhost:8000 is not the address of a server: write one like http://"):
        ServedModel("localhost:8000", MODEL, Decoding())
    with pytest.raises(InputError, match="concurrency=0 must be at least 1"):
        model(endpoint, concurrency=0)


@pytest.mark.parametrize("status", [401, 404, 405])
def test_a_first_reply_that_concerns_all_requests_ends_the_run(tmp_path, status, caplog):
    with (
        served(lambda asked: Reply({}, status)) as endpoint,
        pytest.raises(InputError, match=f"refuses what it is asked .HTTP {status}: {{}}.: check its address"),
    ):
        generate(prompts(50), model(endpoint), tmp_path)
    assert len(endpoint.asked) <= 32
    gc.collect()  # when asyncio speaks of errors that nobody has looked at
    assert not caplog.records, "one sentence, and nothing of the other tasks"
    assert read_responses(tmp_path) == []
    with served(lambda asked: Reply({}, status) if asked.text == "swali 40" else echo(asked)) as endpoint:
        assert generate(prompts(50), model(endpoint), tmp_path).stopped == {"end": 49, "error": 1}


def test_the_key_is_told_to_the_server_alone(tmp_path):
    quotes = Reply({"error": {"message": "Incorrect API key provided: s3cret"}}, 400)
    with served(lambda asked: quotes) as endpoint:
        served_model = model(endpoint, key="s3cret")
        generate(prompts(1), served_model, tmp_path)
        assert endpoint.asked[0].headers["authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(served_model)
    for path in tmp_path.iterdir():
        assert "s3cret" not in path.read_text()
    assert "provided: ***" in read_responses(tmp_path)[0].error


def test_a_conversation_that_is_no_text_is_an_error_of_its_own():
    half = Prompt("p", "sw", (Message("user", "half \ud83d"),))
    with served() as endpoint:
        ((_, response),) = model(endpoint).respond([request(half)])
    assert response.stopped == "error"
    assert response.error.startswith("the conversation is not text")


def test_a_run_that_stops_early_leaves_nothing_under_way():
    with served(lambda asked: answer(asked, "a", delay=0.05)) as endpoint:
        answers = model(endpoint, concurrency=4).respond([request(prompt) for prompt in prompts(40)])
        next(answers)
        answers.close()
        wait_until(lambda: endpoint.now == 0)
        assert len(endpoint.asked) < 12


# The command.


@pytest.fixture
def given(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{n}", "language": "sw", "prompt": f"swali {n}"}) + "\n" for n in range(60)))
    return {"--prompts": str(path), "--output": str(tmp_path / "out"), "--served-model": MODEL}


def words(given, *more):
    return [part for pair in given.items() for part in pair] + list(more)


def test_the_command_asks_a_server(given, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    with served() as endpoint:
        more = {"--server": endpoint.url, "--limit": "3", "--samples": "2", "--temperature": "0.5", "--api-key-env": "MY_KEY"}
        command.main(words(given | more, "--chat"))
        assert len(endpoint.asked) == 6
        assert endpoint.asked[0].headers["authorization"] == "Bearer s3cret"
    assert f"{tmp_path / 'out'}: 6 answers: 6 ended" in capsys.readouterr().out
    settings = json.loads((tmp_path / "out" / "generation.json").read_text())["settings"]
    assert settings["rendered"] == "by the server"
    assert settings["decoding"]["temperature"] == 0.5


def test_a_conversation_rendered_here_is_sent_as_the_ids_that_training_reads(given, world):
    with served() as endpoint:
        more = {"--server": endpoint.url, "--limit": "1", "--model": str(world / "model"), "--template": "hf"}
        command.main(words(given | more))
    (asked,) = endpoint.asked
    tokenizer = toy_chat.tokenizer()
    assert asked.body["prompt"] == tokenizer(toy_chat.FORMAT.prompt("swali 0"), add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_tokens_to_ids("<end>") in asked.body["stop_token_ids"]


@pytest.mark.parametrize(
    ("change", "flags", "word"),
    [
        ({"--served-model": None}, ["--chat"], "give --served-model too"),
        ({"--model": "somewhere"}, ["--chat"], "--chat says that the server renders conversations, and --model that"),
        ({"--template": "hf"}, ["--chat"], "--chat says that the server renders conversations, and --template that"),
        ({}, [], "Who renders conversations for --server"),
        ({}, ["--chat", "--tokens"], "--tokens needs ids"),
        ({"--server": None}, [], "--served-model is for a served model: give --server too"),
        ({"--server": None, "--served-model": None}, ["--chat"], "--chat is for a served model"),
        ({"--server": None, "--served-model": None, "--timeout": "3"}, [], "--timeout is for a served model"),
        ({"--server": None, "--served-model": None}, [], "No model was given to answer the prompts: give --model, or --server"),
        ({"--api-key-env": "UNSET_KEY"}, ["--chat"], "--api-key-env UNSET_KEY is not set"),
        ({"--server": "http://127.0.0.1:9/v1"}, ["--chat"], "cannot be reached"),
        ({"--served-model": "other"}, ["--chat"], "has no model 'other': write one of those it has, toy"),
        ({"--timeout": "0"}, ["--chat"], "timeout=0 must be above 0"),
        ({"--concurrency": "0"}, ["--chat"], "concurrency=0 must be at least 1"),
        ({"--samples": "2"}, ["--chat"], "samples=2 at temperature 0"),
        ({"--prompts": "nowhere.jsonl"}, ["--chat"], "nowhere.jsonl"),
        ({"--output": "FILE"}, ["--chat"], "is a file: give a folder"),
        ({"--output": "FOLDER"}, ["--chat"], "something else (model.safetensors)"),
    ],
)
def test_bad_input_is_one_sentence(given, tmp_path, capsys, change, flags, word):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").write_text("")
    places = {"FILE": str(tmp_path / "file"), "FOLDER": str(tmp_path / "folder")}
    with served() as endpoint:
        both = {"--server": endpoint.url} | given | change
        both = {name: places.get(value, value) for name, value in both.items() if value is not None}
        with pytest.raises(SystemExit) as end:
            command.main(words(both, *flags))
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert word in err
    assert err.count("\n") == 1
    assert not endpoint.asked
    assert not (tmp_path / "out").exists()


def test_a_missing_openai_is_a_sentence(given, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(SystemExit):
        command.main(words(given | {"--server": "http://127.0.0.1:9/v1"}, "--chat"))
    assert capsys.readouterr().err == "error: A served model needs the package openai: run `pip install openai`.\n"


def start_with(arguments):
    command = [sys.executable, "-m", "mpo_jax.generate", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on(given, tmp_path):
    """Killed twice at a random moment of its work; the file is then that of a run that nothing disturbed."""
    path = tmp_path / "out" / "responses.jsonl"
    with served(lambda asked: answer(asked, f"jibu {asked.text}", delay=0.02)) as endpoint:
        arguments = words(given | {"--server": endpoint.url, "--concurrency": "4"}, "--chat")
        for count in (10, 30):
            process = start_with(arguments)
            wait_until(lambda count=count: path.exists() and path.read_bytes().count(b"\n") >= count)
            process.kill()
            process.communicate()
        process = start_with(arguments)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "60 answers: 60 ended" in out
        assert len(endpoint.asked) <= 60 + 2 * 5, "what was there is not asked again"
        generate(prompts(60), model(endpoint, Decoding()), tmp_path / "whole")
    assert sorted(path.read_bytes().splitlines()) == sorted((tmp_path / "whole" / "responses.jsonl").read_bytes().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_share_the_prompts(given, tmp_path, killed):
    """And where both are killed, what they have written is not lost to one that goes on alone."""
    folder = tmp_path / "out"
    with served(lambda asked: answer(asked, f"jibu {asked.text}", delay=0.05)) as endpoint:
        more = words(given | {"--server": endpoint.url, "--concurrency": "2"}, "--chat")
        pair = start_command("mpo_jax.generate", more, 2, "--hosts")
        if killed:
            wait_until(lambda: len(endpoint.asked) >= 25)
            for process in pair:
                process.kill()
            finish(pair)
            (last,) = start_command("mpo_jax.generate", more, 1, "--hosts")
            ends = finish([last])
            assert len(endpoint.asked) <= 60 + 2 * 3, "what was there is not asked again"
        else:
            ends = finish(pair)
            assert len(endpoint.asked) == 60
            assert "answers" not in ends[1][1], "one process talks"
    assert {code for code, _, _ in ends} == {0}, ends
    assert "60 answers: 60 ended" in ends[0][1]
    lines = (folder / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == sorted(f"p{n}" for n in range(60))
    assert {path.name for path in folder.iterdir()} == {"responses.jsonl", "generation.json"}


@pytest.mark.slow
def test_processes_with_other_prompts_are_told(given, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text((tmp_path / "prompts.jsonl").read_text().replace("swali 3", "lingine 3"))
    with served() as endpoint:
        common = {"--server": endpoint.url, "--hosts.coordinator": f"127.0.0.1:{free_port()}", "--hosts.count": "2"}
        pair = [
            start_with(words(given | common | {"--prompts": str(path), "--hosts.index": index}, "--chat"))
            for index, path in (("0", tmp_path / "prompts.jsonl"), ("1", other))
        ]
        ends = finish(pair)
        assert not endpoint.asked
    for code, _, err in ends:
        assert code == 2
        assert "The processes do not agree, since process 1 has other prompts than process 0" in err
