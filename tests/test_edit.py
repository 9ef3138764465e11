"""The command that edits: a whole run on a toy model, by hand beside it, on eight devices, and what it says of bad input."""

import json
import re

import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file
from world import write_lines

from mpo_jax import edit
from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.data.conversation import Conversation
from mpo_jax.data.prompts.base import Message
from mpo_jax.editing.layer_edit import EditConfig, Inputs, edit_layer
from mpo_jax.editing.low_rank import Penalty
from mpo_jax.editing.mlp_inputs import Forward
from mpo_jax.editing.neurons import Thresholds
from mpo_jax.models.families.registry import build
from mpo_jax.types import Packed

RISKY = ["pick this lock", "copy that key", "open his safe", "read her mail", "skip the toll", "hide the bill"]
PLAIN = ["cook some rice", "plant a tree", "fold a shirt", "name a river", "count to ten", "draw a cat", "sing a song"]
SETTINGS = ["--template", "hf", "--dtype", "float32", "--languages", "sw,ko", "--rank", "2", "--z", "1", "--d", "0.3"]


def prompts(texts: list[str], languages=("en", "sw", "ko")) -> list[dict]:
    return [
        {"id": f"p{i}", "language": language, "prompt": f"{language}: {text}"}
        for i, text in enumerate(texts)
        for language in languages
    ]


@pytest.fixture(scope="module")
def given(world, tmp_path_factory):
    """The options that name the toy model and its prompts."""
    folder = tmp_path_factory.mktemp("prompts")
    write_lines(folder / "harmful.jsonl", prompts(RISKY))
    write_lines(folder / "harmless.jsonl", prompts(PLAIN))
    return [
        "--model",
        str(world / "model"),
        "--harmful",
        str(folder / "harmful.jsonl"),
        "--harmless",
        str(folder / "harmless.jsonl"),
    ]


@pytest.fixture(scope="module")
def edited(given, tmp_path_factory):
    out = tmp_path_factory.mktemp("edited")
    edit.main([*given, *SETTINGS, "--output", str(out)])
    return out


def tensors(folder) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def test_it_is_the_edit_of_each_layer_and_nothing_else_changes(world, edited):
    before, after = tensors(world / "model"), tensors(edited / "model")
    assert before.keys() == after.keys()
    config = EditConfig(2, "linear", Thresholds(1.0, 0.3), Penalty())
    for layer in range(2):
        arrays = load_file(edited / "inputs" / f"layer_{layer:03d}.safetensors")
        inputs = Inputs(*({l: arrays[f"{kind}/{l}"] for l in ("en", "sw", "ko")} for kind in ("harmful", "harmless")))  # noqa: E741
        names = {m: f"model.layers.{layer}.mlp.{m}_proj.weight" for m in ("gate", "up")}
        made = edit_layer({m: before[name].T for m, name in names.items()}, inputs, config, activation=np.tanh)
        for matrix, name in names.items():
            change = (after[name] - before[name]).T
            np.testing.assert_allclose(change[:, made[matrix].neurons], made[matrix].left @ made[matrix].right, atol=1e-6)
            assert np.linalg.matrix_rank(change, tol=1e-5) == 2
            assert not np.delete(change, made[matrix].neurons, axis=1).any()
    edited_names = {f"model.layers.{i}.mlp.{m}_proj.weight" for i in range(2) for m in ("gate", "up")}
    for name in before.keys() - edited_names:
        np.testing.assert_array_equal(before[name], after[name])


def test_the_inputs_are_those_of_the_model_as_a_whole(world, edited):
    """Read layer by layer, packed, from the files: what the model's own forward pass gives, one prompt at a time."""
    family, model, _ = build(world / "model")
    params = load_params(world / "model", model, family, tiny.mesh())
    chat = Conversation.of(world / "model", family.authors_chat, "hf")
    read = jax.jit(lambda row: model.tapped(params, row, {"mlp_input": lambda x_STD: x_STD[0, -1]})[1]["mlp_input"])
    for i, text in enumerate(RISKY[:2]):
        ids = chat.tokens([Message("user", f"sw: {text}")])
        T = len(ids)
        ones = np.ones((1, T), np.int32)
        found = read(Packed(ids[None], np.arange(T, dtype=np.int32)[None], ones, ones, *(np.zeros((1, 0), np.int32),) * 5))
        for layer in range(2):
            stored = load_file(edited / "inputs" / f"layer_{layer:03d}.safetensors")["harmful/sw"][i]
            np.testing.assert_allclose(stored, found[layer], atol=1e-5)


@pytest.mark.parametrize("language", ["sw", "ko"])
def test_each_other_language_comes_nearer_to_the_dominant_one(world, edited, language):
    before, after = tensors(world / "model"), tensors(edited / "model")
    inputs = load_file(edited / "inputs" / "layer_000.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    neurons = np.abs(after[name] - before[name]).sum(axis=1) > 0
    goal = (inputs["harmful/en"] @ before[name].T)[:, neurons]

    def distance(weights) -> float:
        return np.square((inputs[f"harmful/{language}"] @ weights[name].T)[:, neurons] - goal).sum()

    assert distance(after) < 0.9 * distance(before)


def test_the_wanted_change_is_that_of_all_other_languages_stacked():
    """By hand: the edit of a matrix whose every neuron is one, without a limit of the rank."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(4, 3)).astype(np.float32)
    harmful = {name: random.normal(size=(5, 4)).astype(np.float32) for name in ("en", "sw", "ko")}
    harmless = {name: random.normal(size=(6, 4)).astype(np.float32) for name in ("en", "sw", "ko")}
    config = EditConfig(None, "linear", Thresholds(-9.0, -9.0), Penalty(gamma=0.5, ridge=0.1))
    made = edit_layer({"gate": weight, "up": weight}, Inputs(harmful, harmless), config, activation=np.tanh)["up"]
    x, safe = np.concatenate([harmful["sw"], harmful["ko"]]), np.concatenate(list(harmless.values()))
    wanted = np.concatenate([harmful["en"], harmful["en"]]) @ weight - x @ weight
    gram = x.T @ x + 0.5 * safe.T @ safe
    lam = 0.1 * np.trace(gram) / 4
    change = np.linalg.solve(gram + lam * np.eye(4), x.T @ wanted)
    assert made.neurons.tolist() == [0, 1, 2]
    np.testing.assert_allclose(made.left @ made.right, change, rtol=1e-4, atol=1e-5)


def test_neurons_and_card(edited):
    known = json.loads((edited / "neurons.json").read_text())
    assert known["languages"] == ["en", "sw", "ko"] and len(known["layers"]) == 4
    for line in known["layers"]:
        assert all(line["overlap"][i][i] == 1 for i, n in enumerate(line["neurons"].values()) if n)
    assert (edited / "overlap.png").read_bytes().startswith(b"\x89PNG")
    card = (edited / "model" / "README.md").read_text()
    assert "6 harmful prompts" in card and "7 harmless prompts" in card and "(0-1)" in card


def test_inputs_serve_other_settings_and_the_same_command_reads_nothing_again(world, given, edited, tmp_path, monkeypatch):
    monkeypatch.setattr(Forward, "mlp_inputs", lambda *_: pytest.fail("the prompts were read again"))
    more = [*given, *SETTINGS, "--inputs", str(edited / "inputs"), "--layers", "1", "--gate-target", "activated"]
    edit.main([*more, "--output", str(tmp_path / "out")])
    before, after = tensors(edited / "model"), tensors(tmp_path / "out" / "model")
    same = [name for name in before if (before[name] == after[name]).all()]
    assert "model.layers.1.mlp.up_proj.weight" in same and "model.layers.1.mlp.gate_proj.weight" not in same
    original = tensors(world / "model")
    changed = {name for name in original if (original[name] != after[name]).any()}
    assert changed == {f"model.layers.1.mlp.{matrix}_proj.weight" for matrix in ("gate", "up")}, "of layer 1 alone"
    assert not (tmp_path / "out" / "inputs").exists()


@pytest.mark.parametrize("mesh", [["--fsdp", "8"], ["--fsdp", "2", "--tensor", "4"]], ids=str)
def test_a_mesh_makes_the_same_edit(given, edited, tmp_path, mesh):
    edit.main([*given, *SETTINGS, "--output", str(tmp_path / "out"), *mesh])
    one, many = tensors(edited / "model"), tensors(tmp_path / "out" / "model")
    for name in one:
        np.testing.assert_allclose(many[name], one[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--languages", "sw,en"], "names a language twice, or the dominant one, 'en'"),
        (["--languages", "sw,bn"], "no prompts in the language 'bn'"),
        (["--rank", "999"], "Layer 0: rank=999 must lie between 1 and the number of neurons"),
        (["--rank", "0"], "rank=0 must be at least 1"),
        (["--rank", "low"], "--rank low is no rank"),
        (["--z", "99", "--d", "99"], "Layer 0: No neuron of 'gate' answers to harm in 'en'"),
        (["--gamma", "0", "--ridge", "0"], "Layer 0: .*not positive definite.*raise ridge"),
        (["--layers", "0-7"], "names layer 7, but the model has 2"),
        (["--layers", "last"], "not a list of layers"),
        (["--limit", "1"], "1 harmful prompts in 'en': give at least two"),
        (["--position", "mean"], "belongs to other settings .position was 'last_prompt' and is now 'mean'"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_input_is_a_sentence(given, edited, tmp_path, capsys, options, words):
    inputs = [] if "--limit" in options else ["--inputs", str(edited / "inputs")]
    with pytest.raises(SystemExit) as ended:
        edit.main([*given, *SETTINGS, "--output", str(tmp_path / "out"), *inputs, *options])
    assert ended.value.code == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "out" / "model").exists()


def test_prompts_that_are_not_parallel_are_named(given, tmp_path, capsys):
    lines = [line for line in prompts(RISKY) if (line["id"], line["language"]) != ("p3", "ko")]
    write_lines(tmp_path / "harmful.jsonl", lines)
    options = [*given[:2], "--harmful", str(tmp_path / "harmful.jsonl"), *given[4:]]
    with pytest.raises(SystemExit):
        edit.main([*options, *SETTINGS, "--output", str(tmp_path / "out")])
    assert "'p3' is missing in 'ko'" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["harmful", "harmless"])
def test_inputs_of_prompts_that_say_something_else_are_refused(given, edited, tmp_path, capsys, file):
    """The ids are the same, one text is not."""
    lines = prompts(RISKY if file == "harmful" else PLAIN)
    lines[0]["prompt"] += "?"
    write_lines(tmp_path / "changed.jsonl", lines)
    at = given.index(f"--{file}")
    options = [*given[:at], f"--{file}", str(tmp_path / "changed.jsonl"), *given[at + 2 :], "--inputs", str(edited / "inputs")]
    with pytest.raises(SystemExit):
        edit.main([*options, *SETTINGS, "--output", str(tmp_path / "out")])
    assert f"belongs to other settings (prompts.{file}.en was" in capsys.readouterr().err


def test_inputs_that_are_no_folder_of_inputs_are_a_sentence(given, tmp_path, capsys):
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "settings.json").write_text("{")
    with pytest.raises(SystemExit):
        edit.main([*given, *SETTINGS, "--output", str(tmp_path / "out"), "--inputs", str(tmp_path / "inputs")])
    assert "settings.json is not JSON" in capsys.readouterr().err
