"""The command that pictures states: a whole run, by hand beside it, and what it says of bad input."""

import json

import jax
import numpy as np
import pytest
import tiny
from world import make_adapter, write_lines

from mpo_jax import represent
from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.data.dataset import Tokens
from mpo_jax.data.rows import read_rows
from mpo_jax.evaluation.representation.states import exchanges_of, states_of
from mpo_jax.models.families.registry import build
from mpo_jax.types import Packed

COMMON = ["--template", "hf", "--dtype", "float32"]
SETTINGS = {"template": "hf", "max_length": 1024, "dtype": "float32"}


def test_the_command_writes_pictures_and_numbers(world, tmp_path, capsys):
    adapter = make_adapter(world, tmp_path / "adapter")
    model, out = str(world / "model"), tmp_path / "out"
    given = ["--model", model, "--compare", model, "--adapter", str(adapter), "--data", str(world / "rows.jsonl")]
    represent.main([*given, "--output", str(out), "--layers", *COMMON])
    found = json.loads((out / "representation.json").read_text())
    assert [line["language"] for line in found["before"]["final"]] == ["en", "sw", "ko"]
    assert found["before"]["final"] != found["after"]["final"], "the adapter is the second model's"
    assert len(found["before"]["layers"]) == 2
    for name in ("representation.png", "layers.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert "probe, after" in capsys.readouterr().out


@pytest.mark.parametrize("position", ["last", "mean"])
def test_states_are_those_of_each_sequence_alone(world, position):
    rows = read_rows(world / "rows.jsonl")
    exchanges = exchanges_of(rows)
    family, model, _ = build(world / "model")
    params = load_params(world / "model", model, family, tiny.mesh())
    examples = Tokens.of(world / "model", family.authors_chat, "hf", 1024).examples(rows)
    with jax.set_mesh(mesh := tiny.mesh(fsdp=2)):
        found = states_of(str(world / "model"), rows, exchanges, mesh=mesh, position=position, layers=True, **SETTINGS)
    assert found.final.shape[0] == len(exchanges) == 2 * (len({row.source for row in rows}) + 10)
    for i in (0, 3, 11):
        pair = getattr(examples[exchanges[i].row], exchanges[i].side)
        ids = np.concatenate([pair.prompt, pair.chosen if exchanges[i].safe else pair.rejected])
        T, none = len(ids), np.zeros((1, 0), np.int32)
        ones, places = np.ones((1, T), np.int32), np.arange(T, dtype=np.int32)[None]
        packed = Packed(ids[None], places, ones, ones, *(none,) * 5)
        hidden, kept = model.tapped(params, packed, {"residual": lambda x_STD: x_STD[0]})
        where = slice(-1, None) if position == "last" else slice(None)
        np.testing.assert_allclose(found.final[i], hidden[0, where].mean(0), atol=1e-5)
        np.testing.assert_allclose(found.layers[:, i], kept["residual"][:, where].mean(1), atol=1e-5)


@pytest.fixture
def prompts(tmp_path):
    lines = [{"id": f"p{i}", "language": of, "prompt": f"{of} {i}"} for i in range(6) for of in ("en", "sw")]
    write_lines(tmp_path / "prompts.jsonl", lines)
    (tmp_path / "safe.json").write_text(json.dumps({"en": "no, sorry", "sw": "hapana"}))
    (tmp_path / "unsafe.json").write_text(json.dumps({"en": "sure, here", "sw": "ndiyo"}))
    return {name: str(tmp_path / file) for name, file in FILES.items()}


FILES = {"--prompts": "prompts.jsonl", "--safe": "safe.json", "--unsafe": "unsafe.json"}


def options(given: dict[str, str]) -> list[str]:
    return [part for pair in given.items() for part in pair]


def test_every_prompt_gets_the_two_answers_of_its_language(world, tmp_path, prompts, capsys):
    represent.main(["--model", str(world / "model"), "--output", str(tmp_path / "out"), *options(prompts), *COMMON])
    assert "24 answers" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "representation.json").read_text())["model"]["final"]
    assert [(line["language"], line["prompts"]) for line in found] == [("en", 6), ("sw", 6)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--safe": None}, "--safe is missing: give --data, or all of"),
        ({"--data": "rows.jsonl"}, "--data has prompts and answers, and --prompts was given too"),
        ({"--dominant": "bn"}, "'p0' in 'en' has no counterpart in 'bn'"),
        ({"--safe": '{"en": "no"}'}, "has no answer in 'sw'"),
        ({"--unsafe": "[1]"}, "is not an object of texts by language"),
        ({"--unsafe": "{"}, "is not JSON"),
    ],
    ids=str,
)
def test_bad_input_is_a_sentence(world, tmp_path, prompts, capsys, changes, words):
    for name, value in changes.items():
        if value and value[0] in "{[":
            (tmp_path / "changed.json").write_text(value)
            value = str(tmp_path / "changed.json")
        prompts |= {name: value}
    given = {name: value for name, value in prompts.items() if value is not None}
    with pytest.raises(SystemExit) as ended:
        represent.main(["--model", str(world / "model"), "--output", str(tmp_path / "out"), *options(given), *COMMON])
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_rows_without_a_dominant_side_are_refused(world, tmp_path, capsys):
    lines = [{"target": {"language": "sw", "prompt": "a", "chosen": "b", "rejected": "c"}}]
    write_lines(tmp_path / "rows.jsonl", lines)
    with pytest.raises(SystemExit):
        represent.main(["--model", str(world / "model"), "--data", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "o")])
    assert "has no dominant side" in capsys.readouterr().err
