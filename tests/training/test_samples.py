"""What a model writes while it trains is what its weights of that update write, wherever they lie, and changes no number."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from processes import finish, start
from safetensors.numpy import load_file
from world import command, config_file, metrics, write_lines

from mpo_jax.data.conversation import Conversation
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.devices.sharding import make_mesh
from mpo_jax.errors import InputError
from mpo_jax.generation.base import Decoding, Request
from mpo_jax.generation.engine import load_engine
from mpo_jax.training import assemble
from mpo_jax.training.config import parse
from mpo_jax.training.samples import NAME, SHOWN, SamplesConfig, _two, compared, shown

NEW_TOKENS = 10
SETTINGS = ("--config.samples.every=3", f"--config.samples.max_new_tokens={NEW_TOKENS}")


def lines(run):
    return [json.loads(line) for line in (run / NAME).read_text(encoding="utf-8").splitlines()]


def ids_of(patch) -> list[list[int]]:
    """Gets the ids of every answer from now on: of a random model, many tokens are half a character and look alike."""
    seen, decode = [], Conversation.decode
    patch.setattr(Conversation, "decode", lambda self, ids: (seen.append(list(map(int, ids))), decode(self, ids))[1])
    return seen


class Sampled(NamedTuple):
    run: Path
    printed: str
    ids: list[list[int]]


@pytest.fixture(scope="module")
def sampled(world, tmp_path_factory) -> Sampled:
    """A run with samples."""
    with pytest.MonkeyPatch.context() as patch:
        said, ids = [], ids_of(patch)
        patch.setattr("builtins.print", lambda *text, **_: said.append(" ".join(map(str, text))))
        patch.setattr("mpo_jax.telemetry.writers.MetricWriter.say", lambda self, line: said.append(line))
        run = command(world, tmp_path_factory.mktemp("sampled"), *SETTINGS)
    return Sampled(run, "\n".join(said), ids)


def test_answers_come_before_the_first_update_in_between_and_after_the_last(sampled):
    found = lines(sampled.run)
    assert [(line["step"], line["language"]) for line in found] == [
        (step, language) for step in (0, 3, 4) for language in ("en", "sw", "ko")
    ]
    assert all(set(line) == {"step", "id", "language", "prompt", "text", "stopped", "new_tokens"} for line in found)
    for line in found:
        assert line["new_tokens"] <= NEW_TOKENS
        assert line["stopped"] == "end" or line["new_tokens"] == NEW_TOKENS
    assert {line["prompt"] for line in found if line["language"] == "en"} < {f"question {i}" for i in range(5)}
    before, after = ([line["text"] for line in found if line["step"] == step] for step in (0, 4))
    assert before != after


def test_the_same_two_are_printed_each_time_and_the_cost_once(sampled):
    run, printed, _ = sampled
    for line in lines(run):
        said = f"update {line['step']}, {line['language']}: {line['prompt']}\n    {shown(line['text'])}"
        assert (said in printed) == (line["language"] in ("en", "sw"))
    assert printed.count("samples: 3 answers in ") == 1
    assert re.search(r"copy the weights to tensor=8; [\d.e-]+ GB of each device, free again", printed)
    assert compared(run) in printed
    assert printed.index("reward gap, nats per token") < printed.index(compared(run))


def test_the_card_has_them_before_and_after(sampled, whole):
    run = sampled.run
    card = (run / "export" / "README.md").read_text(encoding="utf-8")
    assert "## Samples\n\n" in card and f"```\n{compared(run)}\n```" in card
    parts = compared(run).splitlines()
    assert [part[:2] for part in parts[::3]] == ["en", "sw", "ko"]
    assert all(part.startswith("    before training:    ") for part in parts[1::3])
    assert all(part.startswith("    after update 4:     ") for part in parts[2::3])
    assert "Samples" not in (whole / "export" / "README.md").read_text(encoding="utf-8")
    assert not (whole / NAME).exists()


def test_they_change_no_number(sampled, whole):
    assert metrics(sampled.run) == metrics(whole)
    ours, theirs = (load_file(of / "export" / "model.safetensors") for of in (sampled.run, whole))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_a_resumed_run_leaves_the_lines_of_one_that_nothing_disturbed(world, sampled, tmp_path, interrupted):
    """Killed in update 4, after the answers of update 3, which the checkpoint of update 2 does not know."""
    with interrupted(3):
        command(world, tmp_path, *SETTINGS)
    path = tmp_path / "run" / NAME
    assert {line["step"] for line in lines(path.parent)} == {0, 3}
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 3, "text": "ha')
    command(world, tmp_path, *SETTINGS, "--config.checkpoint.resume=auto")
    assert path.read_bytes() == (sampled.run / NAME).read_bytes()
    command(world, tmp_path, "--config.checkpoint.resume=auto", *SETTINGS, "--config.samples.limit=9")
    assert path.read_bytes() == (sampled.run / NAME).read_bytes(), "other samples are no other run, and there is no update left"


@pytest.mark.parametrize(
    "mesh", [(1, 1, 1), *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in ((1, 4, 2), (2, 1, 4)))], ids=str
)
def test_where_the_weights_lie_changes_no_token(world, sampled, tmp_path, monkeypatch, mesh):
    """Beside fsdp=8, whose answers are written with tensor=8."""
    (data, fsdp, tensor), count = mesh, mesh[0] * mesh[1] * mesh[2]
    monkeypatch.setattr(assemble, "make_mesh", lambda config: make_mesh(config, jax.devices()[:count]))
    settings = [f"--config.mesh.{name}={n}" for name, n in (("data", data), ("fsdp", fsdp), ("tensor", tensor))]
    settings += ["--config.samples.tensor=2"] if tensor == 4 else []
    ids = ids_of(monkeypatch)
    run = command(world, tmp_path, *SETTINGS, *settings, "--config.export.enabled=False")
    assert ids == sampled.ids and len({token for answer in ids for token in answer}) > 10
    assert lines(run) == lines(sampled.run)


def test_they_are_the_answers_of_the_model_that_is_exported(world, tmp_path):
    """Some parameters are frozen and the reference is cached."""
    settings = ("--config.frozen=embedding,layers.mlp", "--config.reference=cached", "--config.export.dtype=float32")
    run = command(world, tmp_path, *SETTINGS, *settings)
    last = [line for line in lines(run) if line["step"] == 4]
    engine = load_engine(
        run / "export", Decoding(max_new_tokens=NEW_TOKENS), template="hf", dtype=jnp.dtype("float32"), batch_size=8
    )
    requests = [
        Request(
            Prompt(line["id"], line["language"], (Message("user", line["prompt"]),)), 0, 0, (Message("user", line["prompt"]),), ""
        )
        for line in last
    ]
    answers = {request.prompt.language: response.text for request, response in engine.respond(requests)}
    assert answers == {line["language"]: line["text"] for line in last}


@pytest.mark.slow
def test_two_processes_write_the_answers_of_one(world, sampled, tmp_path):
    ends = finish(start([f"--config={config_file(world, tmp_path)}", *SETTINGS], 2))
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert lines(tmp_path / "run") == lines(sampled.run)
    first, second = (out for _, out, _ in ends)
    assert "before training:" in first and "before training:" not in second


def test_a_file_of_prompts_is_answered(world, tmp_path):
    prompts = [{"id": f"{i}", "language": language, "prompt": f"hello {i}"} for i in range(3) for language in ("bn", "ar")]
    write_lines(tmp_path / "mine.jsonl", prompts)
    settings = (f"--config.samples.prompts={tmp_path / 'mine.jsonl'}", "--config.data.eval_fraction=0")
    run = command(world, tmp_path, *settings, "--config.samples.max_new_tokens=2")
    asked = [(line["step"], line["language"], line["prompt"]) for line in lines(run)]
    assert asked == [(step, language, f"hello {i}") for step in (0, 6) for i in (0, 1) for language in ("bn", "ar")]
    assert str(tmp_path) not in (run / "export" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["limit=0"], "samples.limit=0 must be at least 1."),
        (["every=-1"], "samples.every=-1 must be at least 0."),
        (["max_new_tokens=0"], "samples.max_new_tokens=0 must be at least 1."),
        (["evry=1"], "--config.samples.evry is not a setting: 'evry' is not known; did you mean 'every'?"),
        (["tensor=3"], "samples.tensor=3 does not divide the heads, layers and vocabulary of this model, or the 8 devices"),
        (["prompts=nowhere.jsonl"], "nowhere.jsonl does not exist: give a file of prompts."),
        (["prompts=long.jsonl"], "has 4107 tokens with its chat format, but the model reads at most 4096"),
        (["limit=1", "data.eval_fraction=0"], "this run holds none out: write --config.samples.prompts=FILE"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_before_anything_is_measured(world, tmp_path, monkeypatch, settings, words):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "long.jsonl", [{"id": "1", "language": "en", "prompt": "x" * 4100}])
    written = [f"--config.{'' if setting.startswith('data') else 'samples.'}{setting}" for setting in settings]
    with pytest.raises(InputError) as refused:
        command(world, tmp_path, *written)
    assert words in str(refused.value)
    assert not (tmp_path / "run" / "before.json").exists()


def test_any_of_its_settings_makes_one_and_none_takes_it_away(world, tmp_path):
    config = f"--config={config_file(world, tmp_path)}"
    assert parse([config]).samples is None
    assert parse([config, "--config.samples.limit=5"]).samples == SamplesConfig(limit=5)
    assert parse([config, "--config.samples.tensor=2", "--config.samples.every=7"]).samples == SamplesConfig(tensor=2, every=7)
    assert parse(["--config=quickstart"]).samples is not None
    assert parse(["--config=quickstart", "--config.samples=none"]).samples is None
    with pytest.raises(InputError, match="as a whole and in part: leave out one or the other"):
        parse(["--config=quickstart", "--config.samples=none", "--config.samples.limit=1"])


def test_two_are_shown_in_two_languages_where_there_are_two():
    assert _two(["en"]) == [0]
    assert _two(["en", "en"]) == [0, 1]
    assert _two(["en", "en", "sw", "ko"]) == [0, 2]


def test_a_text_is_shown_on_one_line_and_does_nothing_to_a_terminal():
    assert shown(" a\n\nb\x1b[2J\u2028c\t ") == "a b [2J c"
    assert shown("\u0995\u09cd\u200c\u09b7") == "\u0995\u09cd\u200c\u09b7", "what joins letters stays"
    assert shown("x" * SHOWN) == "x" * SHOWN
    assert shown("x" * (SHOWN + 1)) == "x" * SHOWN + " ..."


def test_what_is_compared_is_the_first_prompt_of_each_language_at_first_and_at_last(tmp_path):
    def line(step, identity, language, text):
        return {"step": step, "id": identity, "language": language, "prompt": f"ask {identity}", "text": text}

    assert compared(tmp_path) == ""
    kept = [line(0, "a", "en", "no"), line(0, "b", "en", "no!"), line(0, "a", "sw", "ndiyo\u2028ndiyo")]
    write_lines(tmp_path / NAME, [*kept, line(5, "a", "en", "hm"), line(9, "a", "en", "no."), line(9, "c", "sw", "hapana")])
    assert compared(tmp_path).splitlines() == [
        "en  ask a",
        "    before training:    no",
        "    after update 9:     no.",
        "sw  ask c",  # which nobody asked before
        "    after update 9:     hapana",
    ]
    write_lines(tmp_path / NAME, kept)
    assert compared(tmp_path).splitlines()[-1] == "    before training:    ndiyo ndiyo"
