"""X-AlpacaEval with the command: a served judge compares answers with a reference's, or with those of the other model."""

import json
import math
from pathlib import Path

import fake_endpoint
import make_small
import pytest
from fake_endpoint import Asked, Reply, answer, first_token, served

pytest.importorskip("openai", reason="a served model needs openai: pip install -r requirements-server.txt")

from mpo_jax import utility as command
from mpo_jax.data.prompts.alpaca_eval_judge import switched
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.records import read_responses, read_settings
from mpo_jax.generation.run import generate
from mpo_jax.generation.server import ServedModel
from mpo_jax.reporting.usefulness_files import read_usefulness

INSTRUCTIONS = ["What is tea?", "Chai ni nini?", "What is coffee?", "Write a line about rain."]
REFERENCE = "Rejea."


@pytest.fixture(scope="session")
def other(world, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("other") / "model"
    make_small.make("qwen2", world / "tokenizer", folder, vocab=264, hidden=32)
    return str(folder)


def write(path: Path, *, output: str | None) -> Path:
    rows = [{"id": i, "dataset": "koala", "instruction": text} for i, text in enumerate(INSTRUCTIONS, start=1)]
    path.write_text(json.dumps([row | ({} if output is None else {"output": output}) for row in rows]))
    return path


@pytest.fixture
def given(world, tmp_path) -> dict[str, str]:
    files = {language: write(tmp_path / f"{language}.json", output=REFERENCE) for language in ("en", "sw")}
    return {
        "--model": str(world / "model"), "--tasks": "x_alpaca_eval", "--output": str(tmp_path / "out"), "--template": "hf",
        "--x-alpaca-eval": ",".join(f"{language}={path}" for language, path in files.items()), "--dtype": "float32",
        "--max-new-tokens": "6", "--judge-model": fake_endpoint.MODEL, "--languages": "sw,en",
    }  # fmt: skip


def words(given: dict[str, str], *more: str) -> list[str]:
    return [part for pair in given.items() for part in pair] + list(more)


def likes_the_reference(asked: Asked) -> Reply:
    """With 0.8 to 0.2, in whichever place it stands. It says neither name about rain, and never answers about coffee."""
    if "rain" in asked.text:
        return first_token(asked, {"Both": -0.1, "The": -3.0})
    if "coffee" in asked.text:
        return Reply({"error": {"message": "filtered"}}, status=400)
    first = f'"m",\n        "output": """{REFERENCE}"""' in asked.text
    good, bad = ("m", "M") if first else ("M", "m")
    return first_token(asked, {good: math.log(0.8 * 0.9), bad: math.log(0.2 * 0.9), "The": math.log(0.1)})


def test_answers_are_compared_with_a_references(given, other, tmp_path, capsys):
    assert switched(INSTRUCTIONS[0]) != switched(INSTRUCTIONS[1]), "both orders come"
    with served(likes_the_reference) as endpoint:
        asked = given | {"--judge-server": endpoint.url}
        command.main(words(asked, "--compare", other))
        found = json.loads((tmp_path / "out" / "utility.json").read_text())
        for label in ("before", "after"):
            assert [(one["language"], one["n"], one["unparsed"], one["errors"]) for one in found["scores"][label]] == [
                ("sw", 2, 1, 1), ("en", 2, 1, 1),
            ]  # fmt: skip
            assert [one["value"] for one in found["scores"][label]] == pytest.approx([20, 20])
        assert [one["n"] for one in found["changes"]] == [2, 2], "the same prompts under both models"
        body = endpoint.asked[0].body
        assert (body["max_tokens"], body["temperature"], body["logprobs"], body["top_logprobs"]) == (1, 1.0, True, 5)
        assert len(endpoint.asked) == 16
        command.main(words(asked, "--compare", other))
        assert len(endpoint.asked) == 20, "the errors alone are tried again"
    folder = tmp_path / "out" / "after" / "x_alpaca_eval"
    decoding = read_settings(folder / "answers")["decoding"]
    assert (decoding["temperature"], decoding["top_p"], decoding["max_new_tokens"]) == (0.6, 0.9, 6)
    assert "win rate" in capsys.readouterr().out
    (measure,) = read_usefulness(tmp_path / "out")
    assert measure.key == "x_alpaca_eval, win rate"


def test_two_models_are_compared_with_each_other_where_no_outputs_are(given, other, tmp_path):
    path = write(tmp_path / "alone.json", output=None)
    both = given | {"--x-alpaca-eval": f"en={path}", "--languages": "en", "--compare": other}
    with served(lambda asked: first_token(asked, {"m": math.log(0.7), "M": math.log(0.3)})) as endpoint:
        command.main(words(both | {"--judge-server": endpoint.url}))
        assert len(endpoint.asked) == 4, "a model is not compared with itself"
    found = json.loads((tmp_path / "out" / "utility.json").read_text())
    (before,), (after,) = found["scores"]["before"], found["scores"]["after"]
    assert (before["value"], before["low"]) == (50, None)
    firsts = sum(switched(text) for text in INSTRUCTIONS)
    assert after["value"] == pytest.approx(100 * (0.7 * firsts + 0.3 * (4 - firsts)) / 4)
    assert found["changes"][0]["value"] == pytest.approx(after["value"] - 50)
    texts = {
        label: read_responses(tmp_path / "out" / label / "x_alpaca_eval" / "answers")[0].text for label in ("before", "after")
    }
    outputs = (texts["after"], texts["before"]) if switched(INSTRUCTIONS[0]) else (texts["before"], texts["after"])
    sent = next(one.text for one in endpoint.asked if INSTRUCTIONS[0] in one.text)
    assert sent.index(f'"""{outputs[0]}"""') < sent.rindex(f'"""{outputs[1]}"""')


def test_a_served_models_answers_are_judged_alone(given, tmp_path):
    """As docs/utility.md says: written by `generate` into the folder, then --judge-only."""
    prompts = [Prompt(str(i), "sw", (Message("user", text),)) for i, text in enumerate(INSTRUCTIONS[:2], start=1)]
    there = {name: value for name, value in given.items() if name not in ("--model", "--max-new-tokens")}
    there |= {"--languages": "sw", "--limit": "2"}
    with served() as model:
        generate(prompts, ServedModel(model.url, fake_endpoint.MODEL, Decoding()), tmp_path / "out/model/x_alpaca_eval/answers")
    with served(likes_the_reference) as endpoint:
        command.main(words(there | {"--judge-server": endpoint.url}, "--judge-only"))
    (score,) = json.loads((tmp_path / "out" / "x_alpaca_eval.json").read_text())["scores"]["model"]
    assert (score["value"], score["n"]) == (pytest.approx(20), 2)


def test_equal_outputs_are_even_and_nobody_is_asked(given, tmp_path):
    there = {name: value for name, value in given.items() if name not in ("--model", "--max-new-tokens")}
    prompts = [Prompt(str(i), "sw", (Message("user", text),)) for i, text in enumerate(INSTRUCTIONS[:2], start=1)]
    with served(lambda asked: answer(asked, REFERENCE)) as endpoint:
        generate(prompts, ServedModel(endpoint.url, "toy", Decoding()), tmp_path / "out" / "model" / "x_alpaca_eval" / "answers")
        command.main(words(there | {"--languages": "sw", "--limit": "2", "--judge-server": endpoint.url}, "--judge-only"))
        assert len(endpoint.asked) == 2, "for the answers alone"
    (score,) = json.loads((tmp_path / "out" / "x_alpaca_eval.json").read_text())["scores"]["model"]
    assert (score["value"], score["n"]) == (50, 2)


def refused(arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2 and "Traceback" not in error
    return error


def test_a_judge_without_log_probabilities_is_one_sentence(given, capsys):
    with served(lambda asked: answer(asked, "m")) as endpoint:
        said = refused(words(given | {"--judge-server": endpoint.url}), capsys)
    assert "The judge answered none of 8 questions (a reply without log-probabilities)" in said


def test_bad_input_is_one_sentence(given, tmp_path, capsys):
    assert "no instructions of X-AlpacaEval in 'bn'" in refused(words(given | {"--languages": "bn"}), capsys)
    lacking = {name: value for name, value in given.items() if name != "--x-alpaca-eval"}
    assert "x_alpaca_eval needs --x-alpaca-eval: en=FILE,es=FILE" in refused(words(lacking), capsys)
    path = write(tmp_path / "alone.json", output=None)
    assert "--languages sw,sw names a language twice" in refused(words(given | {"--languages": "sw,sw"}), capsys)
    twice = refused(words(given | {"--x-alpaca-eval": f"a.json,en={path}"}), capsys)
    assert f"--x-alpaca-eval has two files in 'en', a.json and {path}" in twice
    with served() as endpoint:
        alone = given | {"--x-alpaca-eval": str(path), "--languages": "en", "--judge-server": endpoint.url}
        assert "A file of --x-alpaca-eval has no outputs to compare the answers with" in refused(words(alone), capsys)
