"""The command: figures of two models side by side, no answer twice, and one sentence where something is wrong."""

import contextlib
import importlib.util
import json
from pathlib import Path

import fake_endpoint
import make_small
import mt_bench_files
import pytest
import usefulness_tasks
from fake_endpoint import Reply, answer, served
from processes import finish, start_command
from world import make_adapter

from mpo_jax import utility as command
from mpo_jax.generation.records import read_responses
from mpo_jax.reporting.usefulness_files import read_usefulness

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="needs lm-evaluation-harness: pip install -r requirements-utility.txt"
)
TASKS = "toy_choice,sums_{language},texts"


@pytest.fixture(scope="session")
def other(world, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("other") / "model"
    make_small.make("qwen2", world / "tokenizer", folder, vocab=264, hidden=32)
    return str(folder)


@pytest.fixture
def given(world, tmp_path) -> dict[str, str]:
    tasks = tmp_path / "tasks"
    usefulness_tasks.write_choices(tasks)
    usefulness_tasks.write_texts(tasks, "texts", ["hello there", "habari ya leo"])
    for language in ("sw", "en"):
        usefulness_tasks.write_sums(tasks, f"sums_{language}", usefulness_tasks.SUMS[: 2 if language == "en" else 3])
    return {
        "--model": str(world / "model"), "--tasks": TASKS, "--languages": "sw,en", "--include-path": str(tasks),
        "--output": str(tmp_path / "out"), "--template": "hf", "--dtype": "float32", "--batch-size": "8",
    }  # fmt: skip


@pytest.fixture
def bench(world, tmp_path) -> dict[str, str]:
    """The options of MT-Bench without a judge."""
    return {
        "--model": str(world / "model"), "--tasks": "mt_bench", "--output": str(tmp_path / "out"), "--template": "hf",
        "--dtype": "float32", "--max-new-tokens": "6", **mt_bench_files.write(tmp_path / "files"),
    }  # fmt: skip


def words(given: dict[str, str], *more: str) -> list[str]:
    return [part for pair in given.items() for part in pair] + list(more)


def figures(out: Path) -> dict:
    return json.loads((out / "utility.json").read_text())


@needs_harness
def test_two_models_side_by_side(given, other, tmp_path, capsys):
    command.main(words(given, "--compare", other))
    found, out = figures(tmp_path / "out"), tmp_path / "out"
    before, after = found["scores"]["before"], found["scores"]["after"]
    named = [(score["task"], score["language"], score["metric"], score["n"]) for score in before if score["main"]]
    assert named == [
        ("toy_choice", "", "acc", 6),
        ("sums_{language}", "sw", "exact_match, flexible-extract", 3),
        ("sums_{language}", "en", "exact_match, flexible-extract", 2),
        ("texts", "", "word_perplexity", 2),
    ]
    assert [score["value"] for score in before] != [score["value"] for score in after]
    assert found["settings"]["compare"] == other and (out / "utility.png").stat().st_size > 1000
    samples = [json.loads(line) for line in (out / "after" / "samples" / "toy_choice.jsonl").read_text().splitlines()]
    share = sum(sample["acc"] for sample in samples) / 6
    assert share == next(score["value"] for score in after if score["metric"] == "acc")
    changes = {(change["task"], change["metric"]): change for change in found["changes"]}
    assert changes["toy_choice", "acc"]["value"] == pytest.approx(share - before[0]["value"])
    assert ("texts", "word_perplexity") not in changes, "it is no mean of what was measured of each text"
    better = {score["task"]: score["better"] for score in before if score["main"]}
    assert better == {"toy_choice": "higher", "sums_{language}": "higher", "texts": "lower"}
    assert {m.key: m.better for m in read_usefulness(out)}["texts, word_perplexity"] == "lower", "and the page reads it"
    said = capsys.readouterr().out
    assert "difference" in said and "toy_choice" in said and f"{before[0]['value']:.3f} [" in said


@needs_harness
def test_the_same_command_writes_no_answer_again(given, tmp_path, monkeypatch):
    command.main(words(given))
    first = figures(tmp_path / "out")
    from mpo_jax.generation.engine import Engine

    monkeypatch.setattr(Engine, "write", lambda *_: pytest.fail("asked again"))
    command.main(words(given))
    assert figures(tmp_path / "out") == first
    assert len(read_responses(tmp_path / "out" / "model" / "answers" / "greedy-12")) == 3, "English asks the first two again"


@needs_harness
@pytest.mark.slow
def test_two_processes_measure_what_one_does(given, bench, tmp_path):
    """On one mesh; test_generate.py also has answers of processes with a share each."""
    both = given | bench | {"--tasks": f"{TASKS},mt_bench", "--languages": "sw,en"}
    with served(judge) as endpoint:
        both |= {"--judge-server": endpoint.url, "--judge-model": fake_endpoint.MODEL}
        command.main(words(both | {"--output": str(tmp_path / "alone")}))
        ends = finish(start_command("mpo_jax.utility", words(both | {"--tensor": "8"}), 2, "--hosts"))
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "toy_choice" in ends[0][1] and "toy_choice" not in ends[1][1]
    ours, alone = (figures(tmp_path / name)["scores"]["model"] for name in ("out", "alone"))
    assert len(ours) == len(alone) > 8
    for mine, theirs in zip(ours, alone, strict=True):
        assert mine.pop("value") == pytest.approx(theirs.pop("value"), rel=1e-5)
        assert mine == theirs


def judge(asked: fake_endpoint.Asked) -> Reply:
    """It cannot rate the first turn of stem, and never answers for the second one of coding."""
    if "blue" in asked.text and "Q1" not in asked.text:
        return answer(asked, "I cannot judge this.")
    if "Print two." in asked.text:
        return Reply({"error": {"message": "filtered"}}, status=400)
    return answer(asked, "Fine. Rating: [[8]]" if "2 + 2" in asked.text else "Rating: [[6]]")


def test_mt_bench_is_answered_and_judged(bench, tmp_path, capsys):
    with served(judge) as endpoint:
        judged = bench | {"--judge-server": endpoint.url, "--judge-model": fake_endpoint.MODEL}
        command.main(words(judged))
        whole = next(score for score in figures(tmp_path / "out")["scores"]["model"] if score["language"] == "sw")
        assert (whole["n"], whole["unparsed"], whole["errors"]) == (6, 1, 1)
        assert whole["value"] == pytest.approx((2 * 8 + 4 * 6) / 6)
        assert len(endpoint.asked) == 16 and all(one.body["temperature"] == 0 for one in endpoint.asked)
        assert {one.body["messages"][0]["role"] for one in endpoint.asked} == {"system"}
        assert "1 unparsed, 1 errors" in capsys.readouterr().out
        command.main(words(judged))
        assert len(endpoint.asked) == 18, "the errors alone are tried again"
    folder = tmp_path / "out" / "model" / "mt_bench"
    assert {path.name for path in folder.iterdir()} == {"answers-0", "answers-0.1", "answers-0.7", "judgements"}
    assert len(read_responses(folder / "answers-0")) == 8


def test_a_model_is_compared_with_itself_and_an_adapter(bench, world, tmp_path):
    adapter = make_adapter(world, tmp_path / "adapter")
    command.main(words(bench | {"--compare": bench["--model"], "--adapter": str(adapter)}))
    before, after = (read_responses(tmp_path / "out" / label / "mt_bench" / "answers-0") for label in ("before", "after"))
    assert [one.id for one in before] == [one.id for one in after]
    assert [one.text for one in before] != [one.text for one in after]


def test_answers_are_written_here_and_judged_elsewhere(bench, tmp_path, capsys):
    command.main(words(bench))
    assert "give --judge-server and --judge-model, and they are judged" in capsys.readouterr().out
    assert not (tmp_path / "out" / "utility.json").exists()
    without = {name: value for name, value in bench.items() if name not in ("--model", "--max-new-tokens")}
    with served(judge) as endpoint:
        there = without | {"--judge-server": endpoint.url, "--judge-model": fake_endpoint.MODEL}
        command.main(words(there, "--judge-only"))
        assert json.loads((tmp_path / "out" / "mt_bench.json").read_text())["scores"]["model"][0]["n"] == 6
        with pytest.raises(SystemExit):
            command.main(words(there | {"--output": str(tmp_path / "empty")}, "--judge-only"))
    assert "does not have an answer to each" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        ({"--languages": "bn"}, (), "no questions of MT-Bench in 'bn'"),
        ({"--limit": "0"}, (), "--limit 0 must be at least 1"),
        ({"--judge-server": "http://127.0.0.1:9/v1"}, ("--judge-only",), "leave --model, --compare and --adapter out"),
        ({}, ("--judge-only",), "--judge-only is for --tasks mt_bench or x_alpaca_eval and needs --judge-server"),
        ({"--judge-server": "http://127.0.0.1:9/v1"}, (), "A judge needs --judge-model"),
        ({"--judge-server": "nowhere", "--judge-model": "m"}, (), "nowhere is not the address of a server"),
        ({"--tasks": "mgsm"}, (), "give --languages"),
    ],
    ids=str,
)
def test_bad_input_is_one_sentence(bench, capsys, change, more, said):
    with pytest.raises(SystemExit) as end:
        command.main(words(bench | change, *more))
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and "Traceback" not in error


@needs_harness
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--include-path": "no/folder"}, "--include-path no/folder is not a folder"),
        ({"--max-length": "1"}, "--max-length 1 must be from 2 to 4096"),
        ({"--num-fewshot": "2", "--tasks": "none_to_give"}, "The task none_to_give has no examples to give"),
        ({"--tasks": "broken"}, "The tasks broken cannot be loaded"),
        ({"--tasks": "several"}, "The task several stands for several and has no figure of its own"),
    ],
    ids=str,
)
def test_bad_tasks_are_one_sentence(given, tmp_path, capsys, change, said):
    tasks = tmp_path / "tasks"
    usefulness_tasks.write_texts(tasks, "none_to_give", ["a"], num_fewshot=0)
    usefulness_tasks.write_task(tasks, "broken", [], {})
    (tasks / "broken.jsonl").unlink()
    (tasks / "several.yaml").write_text("group: several\ntask: [sums_sw, sums_en]\n")
    with pytest.raises(SystemExit) as end:
        command.main(words(given | change))
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and "Traceback" not in error


def test_without_the_harness_a_sentence_says_what_to_install(given, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "lm_eval" else find(name, *rest))
    with contextlib.suppress(SystemExit):
        command.main(words(given))
    assert "These tasks need lm-evaluation-harness: run `pip install 'mpo_jax[utility]'`" in capsys.readouterr().err
