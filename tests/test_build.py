"""The command: whose options they are, who is asked, and what is wrong in one sentence."""

import json

import pytest

pytest.importorskip("openai", reason="a served model needs openai: pip install -r requirements-server.txt")

import recipe_voices
from fake_endpoint import MODEL, served
from recipe_runs import arguments, rows, voices, write_prompts

from mpo_jax import build as command
from mpo_jax import preview
from mpo_jax.recipes.registry import RECIPES


@pytest.fixture
def prompts(tmp_path):
    return write_prompts(tmp_path / "prompts.jsonl", 4)


def refused(capsys, words) -> str:
    with pytest.raises(SystemExit) as end:
        command.main([str(word) for word in words])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_a_recording_replays_a_build_and_preview_reads_its_rows(prompts, world, tmp_path, capsys):
    with served(recipe_voices.say) as endpoint:
        given = arguments("on_policy", prompts, tmp_path / "out", *voices(endpoint.url), "--chat")
        command.main([*given, "--record", str(tmp_path / "recording.jsonl"), "--drop", "duplicate,copied"])
    again = arguments("on_policy", prompts, tmp_path / "again", *voices(None), "--chat", "--drop", "duplicate,copied")
    command.main([*again, "--replay", str(tmp_path / "recording.jsonl")])
    assert rows(tmp_path / "again") == rows(tmp_path / "out")
    capsys.readouterr()
    preview.main(["--data", str(tmp_path / "out" / "rows.jsonl"), "--tokenizer", str(world / "tokenizer"), "--rows", "0"])
    assert "8 rows to train on, 0 held out" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["models"] == {"model": {"served model": MODEL}, "judge": f"deng-{MODEL}", "translator": f"server-{MODEL}"}
    assert manifest["drop"] == ["duplicate", "copied"]


def test_a_model_on_these_devices_is_known_by_its_digest(prompts, world, tmp_path):
    with served(recipe_voices.say) as endpoint:
        translate = ["--translate", "server", "--translate-model", MODEL, "--translate-server", endpoint.url]
        own = ["--model", str(world / "model"), "--template", "hf", "--dtype", "float32", "--max-new-tokens", "4"]
        command.main(arguments("sdrrl", prompts, tmp_path / "out", *own, *translate, "--limit", "2"))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["models"]["model"] == {"model": manifest["asked"]["answers"]["model"]}
    assert manifest["settings"]["prompts"]["number"] == 2


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_has_every_option_of_a_recipe(recipe, capsys):
    with pytest.raises(SystemExit):
        command.main(["--recipe", recipe, "--help"])
    said = capsys.readouterr().out
    for name in RECIPES[recipe].__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in said


OWN = ["--server", "http://nobody.invalid", "--served-model", MODEL, "--chat"]


@pytest.mark.parametrize(
    ("recipe", "more", "said"),
    [
        ("on_policy", ["--tries", "0"], "tries=0 must be at least 1"),
        ("icr", ["--samples", "1"], "samples=1 must be at least 2"),
        ("on_policy", ["--languages", "sw,en"], "--languages has 'en', the dominant language"),
        ("on_policy", ["--languages", "tlh"], "The language 'tlh' is in no table of translators"),
        (
            "on_policy",
            ["--stage", "tea"],
            "stage='tea' is not known: write one of 'answers', 'verdicts', 'translations', 'rows', 'judged'",
        ),
        ("on_policy", ["--chat"], "--chat is for a served model"),
        ("on_policy", [*OWN, "--dtype", "float32"], "--dtype is for a model on these devices"),
        ("on_policy", ["--drop", "dull"], "drop='dull' is not known"),
        ("on_policy", [*OWN, "--stage", "verdicts"], "Who says whether an answer is safe"),
        ("sdrrl", ["--stage", "answers"], "No model was given to write answers"),
        ("sdrrl", ["--code-switch", "0.5"], "code_switch and lexicon belong together"),
        ("lidr", [*OWN, "--languages", "sw", "--stage", "self_translations"], "--stage prompts first"),
        ("mapo", ["--scorer-server", "http://nobody.invalid"], "--scorer-server and --scorer-model belong together"),
        ("mapo", ["--scorer-dir", "x", "--scorer-server", "y"], "--scorer-dir and --scorer-server are two scorers"),
        ("mapo", ["--scorer-dir", "x"], "x is no converted NLLB"),
        ("icr", ["--denominator", "./x"], "./x is not a folder"),
    ],
)
def test_what_is_wrong_is_one_sentence(recipe, more, said, prompts, tmp_path, capsys):
    text = refused(capsys, arguments(recipe, prompts, tmp_path / "out", *more))
    assert text.startswith("error: ") and said in text and text.count("\n") == 1


def test_a_server_that_renders_cannot_open_an_answer(prompts, tmp_path, capsys):
    with served(recipe_voices.say) as endpoint:
        given = arguments("lidr", prompts, tmp_path / "out", *voices(endpoint.url), "--chat")
        assert "give --model, a folder with the tokenizer, in place of --chat" in refused(capsys, given)


def test_the_output_of_another_recipe_is_refused_with_the_difference(prompts, tmp_path, capsys):
    with served(recipe_voices.say) as endpoint:
        given = arguments("sdrrl", prompts, tmp_path / "out", *voices(endpoint.url), "--chat")
        command.main(given)
        text = refused(capsys, [*given, "--no-cross"])
        assert "settings.options.cross was True and is now False" in text
        text = refused(capsys, arguments("on_policy", prompts, tmp_path / "out", *voices(endpoint.url), "--chat"))
        assert "recipe was 'sdrrl' and is now 'on_policy'" in text


def test_any_judge_can_read_the_rows(prompts, tmp_path, capsys):
    """Each distinct answer once: the two languages share their dominant side."""
    with served(recipe_voices.say) as endpoint:
        given = arguments("on_policy", prompts, tmp_path / "out", *voices(endpoint.url), "--chat")
        assert "--stage rows first" in refused(capsys, [*given, "--stage", "judged"])
        command.main(given)
        command.main([*given, "--stage", "judged", "--judge", "phrases"])
        asked = len(endpoint.asked)
        command.main([*given, "--stage", "judged"])
        assert len(endpoint.asked) > asked
    said = json.loads((tmp_path / "out" / "judged.json").read_text())
    assert said.keys() == {"phrases", f"deng-{MODEL}"}
    for found in said.values():
        assert {(n, sum(counts.values())) for by in found.values() for n, counts in by.items()} == {
            ("chosen", 4),
            ("rejected", 4),
        }
    assert said["phrases"]["sw"] == {"chosen": {"refusal": 4}, "rejected": {"other": 4}}
    assert "sw        chosen" in capsys.readouterr().out
