"""The command from answers to a table, in parts and at once; a recording replays it; what is wrong is one sentence."""

import argparse
import json
import re
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="a served model needs openai: pip install -r requirements-server.txt")

import make_recording
import make_small
from fake_clients import say
from fake_endpoint import MODEL, served
from processes import ROOT
from safety_campaign import campaign

from mpo_jax import safety as command
from mpo_jax.errors import InputError

QUESTIONS = {"en": "What is for dinner", "sw": "Chakula cha jioni ni nini", "de": "Was gibt es heute zum Abendessen"}


@pytest.fixture
def given(world, tmp_path) -> dict[str, str]:
    rows = [{"id": f"p{n}", "language": name, "prompt": f"{text} {n}?"} for n in range(4) for name, text in QUESTIONS.items()]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "--model": str(world / "model"), "--template": "hf", "--dtype": "float32", "--max-new-tokens": "6", "--temperature": "1",
        "--prompts": str(tmp_path / "prompts.jsonl"), "--output": str(tmp_path / "out"), "--judge": "phrases",
    }  # fmt: skip


def words(given: dict[str, str], *more: str) -> list[str]:
    return [part for pair in given.items() for part in pair] + list(more)


def without(given: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in given.items() if name not in names}


def asks(url: str | None = None) -> dict[str, str]:
    """The options of a judge and a translator on one server."""
    named = {"--judge": "deng", "--judge-model": MODEL, "--translate": "server", "--translate-model": MODEL}
    return named | ({} if url is None else {"--judge-server": url, "--translate-server": url})


def table(folder: Path, name: str = "asr.json") -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_openings_of_refusals_are_never_called_attacks(given, tmp_path, capsys):
    command.main(words(given, "--compare", given["--model"]))
    said = capsys.readouterr().out
    assert "refusals by their openings (a smoke test, which says nothing of safety), judged by phrases" in said
    assert "ASR" not in said and "attack" not in said
    whole = table(tmp_path / "out", "refusals.json")
    assert [line["language"] for line in whole["models"]["before"]["lines"]] == ["en", "sw", "de"]
    assert whole["models"]["before"] == whole["models"]["after"]
    assert not (tmp_path / "out" / "asr.json").exists()


def test_stage_by_stage_is_all_at_once_and_a_recording_replays_both(given, tmp_path, capsys):
    recording = tmp_path / "recording.jsonl"
    with served(say) as endpoint:
        command.main(words(given | asks(endpoint.url), "--record", str(recording)))
        asked = len(endpoint.asked)
        assert len({json.dumps(one.body["messages"]) for one in endpoint.asked}) == asked, "nothing is asked twice"
        command.main(words(given | asks(endpoint.url)))
        assert len(endpoint.asked) == asked
        parts = given | {"--output": str(tmp_path / "parts")}
        for stage in ("responses", "translations", "verdicts", "table"):
            names = () if stage == "responses" else ("--model",)
            command.main(words(without(parts | asks(endpoint.url), *names), "--stage", stage))
    assert (tmp_path / "parts" / "asr.json").read_bytes() == (tmp_path / "out" / "asr.json").read_bytes()
    command.main(words(given | {"--output": str(tmp_path / "again")} | asks(), "--replay", str(recording)))
    assert (tmp_path / "again" / "asr.json").read_bytes() == (tmp_path / "out" / "asr.json").read_bytes()
    assert "attack success rate, judged by deng-toy" in capsys.readouterr().out


def test_a_judge_on_these_devices_and_one_that_agrees(given, world, tmp_path, capsys):
    """The toy model as a judge says nothing that can be read, and that is counted."""
    command.main(words(given | {"--judge": "deng", "--judge-dir": str(world / "model"), "--judge-dtype": "float32"}))
    for line in table(tmp_path / "out")["models"]["model"]["lines"]:
        assert line["unparsed"] == line["exchanges"] == 4
    with served(say) as endpoint:
        command.main(
            words(without(given, "--model") | asks(endpoint.url) | {"--translate": "none"}, "--second-judge", "deng-model")
        )
    assert "deng-toy and deng-model agree on 0 of 0, Cohen's kappa not defined" in capsys.readouterr().out


def test_gaps_and_people(given, tmp_path, capsys):
    gaps = [{"name": name, "mean": mean} for name, mean in (("en (dominant)", 1.5), ("sw", 0.1), ("de", 0.8))]
    (tmp_path / "gaps.json").write_text(json.dumps({"model": gaps}))
    with served(say) as endpoint:
        more = ("--gaps", str(tmp_path / "gaps.json"), "--sample-for-people", "6")
        command.main(words(given | asks(endpoint.url), *more))
    said = capsys.readouterr().out
    assert f"{tmp_path / 'out' / 'people.csv'}: 6 answers for people to judge" in said
    assert "model: reward gap and rate over 3 languages: Spearman" in said or "too few languages" in said


def test_a_served_model_is_measured_with_one_beside_it(given, tmp_path):
    with served() as endpoint:
        server = {"--server": endpoint.url, "--served-model": MODEL, "--compare": MODEL}
        command.main(words(without(given, "--model", "--template", "--dtype") | server, "--chat"))
    assert table(tmp_path / "out", "refusals.json")["models"].keys() == {"before", "after"}


@pytest.mark.parametrize(
    ("drop", "change", "said"),
    [
        ("--judge", {}, "Who judges? Give --judge, or --stage responses or translations alone"),
        ("--judge", {"--stage": "table"}, "Whose verdicts are in the table? Give --judge"),
        (
            "--model",
            {"--stage": "responses"},
            "No model was given to answer the prompts: give --model, or --server and --served-model",
        ),
        ("--model", {"--compare": "x"}, "--compare x is compared with a first model: give --model too"),
        ("--model", {}, "has no answers: run the command with --model, or with --stage responses first"),
        ("", {"--judge": "dengg"}, "judge='dengg' is not known"),
        ("", {"--judge": "deng"}, "There is no model to judge: give --judge-server and --judge-model, or --judge-dir"),
        ("", {"--judge": "deng", "--judge-server": "http://x/v1"}, "give --judge-server and --judge-model"),
        ("", {"--judge-tokens": "3"}, "--judge-tokens is for the judge 'deng'"),
        ("", {"--stage": "translations"}, "There is no translator: give one with --translate"),
        ("", {"--stage": "responses", "--gaps": "x"}, "--gaps belongs to the table"),
        ("", {"--replay": "no/such/file"}, "--replay no/such/file does not exist"),
        ("", {"--translate": "nllb"}, "give --translate-dir, a folder converted for CTranslate2"),
        ("", {"--judge-key-env": "NO_SUCH_KEY"}, "--judge-key-env NO_SUCH_KEY is not set"),
        ("", {"--sample-for-people": "0"}, "--sample-for-people 0 must be at least 1"),
    ],
    ids=str,
)
def test_bad_input_is_one_sentence(given, capsys, drop, change, said):
    with pytest.raises(SystemExit) as end:
        command.main(words(without(given, drop) | change))
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


@pytest.mark.slow
def test_a_guard_judges_on_these_devices(shared, given, tmp_path):
    """A small random one, which says nothing that can be read. The tokenizer's own template is not the guard's, so it goes."""
    tokenizer = shared / "data" / "tokenizers" / "llama-3.1-8b-instruct"
    make_small.make("llama", tokenizer, tmp_path / "guard", vocab=128256)
    guard = {"--judge": "llama_guard", "--judge-dir": str(tmp_path / "guard"), "--languages": "en,de", "--limit": "2"}
    command.main(words(given | guard, "--stage", "responses"))
    with pytest.raises(SystemExit):
        command.main(words(given | guard, "--stage", "verdicts"))
    config = tmp_path / "guard" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": None}))
    command.main(words(given | guard))
    for line in table(tmp_path / "out")["models"]["model"]["lines"]:
        assert line["unparsed"] == line["exchanges"] == 2
        assert line["rates"] == {"asr_deng": None}


@pytest.mark.slow
def test_a_killed_command_ends_with_the_same_table_and_nothing_is_asked_twice(shared, tmp_path):
    assert campaign(tmp_path, limit=12, kills=2, languages="en,sw", seed=0)


def test_the_documents_example_shows_what_it_says(tmp_path, capsys, monkeypatch):
    page = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
    section = page.partition("## An example that asks nobody")[2].partition("\n## ")[0]
    indented = re.findall(r"^    .*(?:\n(?: {4}.*)?)*", section, re.MULTILINE)
    example, shown = (textwrap.dedent(block).strip() for block in indented)
    words = example.replace("\\\n", " ").split()[3:]  # after python -m mpo_jax.safety
    monkeypatch.chdir(ROOT)
    command.main([*words[: words.index("--output")], "--output", str(tmp_path)])
    said = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert shown in said


def test_the_documents_recording_is_what_its_program_makes(tmp_path):
    make_recording.make(tmp_path)
    for name in ("prompts.jsonl", "recording.jsonl"):
        kept = ROOT / "quickstart" / "safety" / name
        assert sorted((tmp_path / name).read_bytes().splitlines()) == sorted(kept.read_bytes().splitlines())


def test_several_processes_only_answer(monkeypatch):
    options = {"stage": None, "judge": "deng", "record": None, "replay": None, "sample_for_people": None}
    monkeypatch.setattr(command.jax, "process_count", lambda: 4)
    with pytest.raises(InputError, match="These 4 processes would wait for judges and translators: give --stage responses here"):
        command.check(argparse.Namespace(**options), command.STAGES)
    with pytest.raises(InputError, match="A recording is of one process"):
        command.check(argparse.Namespace(**options | {"stage": "responses", "record": "x"}), ("responses",))
