"""The study of edits from its command line to its tables, in seconds."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from mpo_jax.editing.layer_edit import EditConfig
from mpo_jax.experiments import editing
from mpo_jax.experiments.learning import MODEL
from mpo_jax.experiments.world import HELD_OUT_OBJECTS, LANGUAGES, OBJECTS, UNSAFE, World, harmless, unsafe_requests


@pytest.fixture(scope="module")
def params():
    """Random parameters, large enough for prompts to differ."""
    return jax.tree.map(lambda x: 5 * x, MODEL.init(jax.random.key(0)))


def test_the_prompts_are_parallel_and_not_those_that_are_measured():
    asked = unsafe_requests(0, 20) + harmless(0, 20)
    assert [request.unsafe for request in asked] == [True] * 20 + [False] * 20
    assert all(request.object < OBJECTS - HELD_OUT_OBJECTS for request in asked)
    assert any(request.action >= UNSAFE for request in asked)


def test_an_edit_changes_gates_and_ups_alone_and_its_rank_is_kept(params):
    inputs = editing.inputs_of(params, World(0), 0, 20)
    assert inputs[0].harmful.keys() == set(LANGUAGES) and inputs[0].dominant == "d"
    for rank in (2, None):
        edited, edits = editing.edit(params, inputs, EditConfig(rank))
        changed = jax.tree.map(lambda new, old: bool((np.asarray(new) != np.asarray(old)).any()), edited, params)
        assert changed["layers"]["mlp"] == {"gate": True, "up": True, "down": False}
        assert not any(jax.tree.leaves({k: v for k, v in changed.items() if k != "layers"}))
        change = np.asarray(edited["layers"]["mlp"]["up"][0] - params["layers"]["mlp"]["up"][0])
        assert np.linalg.matrix_rank(change, tol=1e-4) == (2 if rank else len(edits[0]["up"].neurons))


@pytest.mark.slow
def test_the_command_writes_its_results(tmp_path, monkeypatch):
    parse = editing.parse

    def tiny(argv):
        study, ranks, folder = parse(argv)
        return dataclasses.replace(study, prompts=8, requests=2, base_updates=60), ranks, folder

    monkeypatch.setattr(editing, "parse", tiny)
    editing.main(["--seeds=1", "--ranks=1,full", f"--out={tmp_path}"])
    found = json.loads((tmp_path / "results.json").read_text())
    names = [run["method"] for run in found["runs"]]
    assert names == [name for of in ("base", "mpo") for name in (of, f"{of}, edit of rank 1", f"{of}, edit of full rank")]
    assert np.shape(found["mean_overlap"]) == (7, 7)
    assert len({json.dumps(run["values"]) for run in found["runs"]}) == 6, "each edit changes something"
    assert "edit of full rank" in (tmp_path / "tables.md").read_text() and (tmp_path / "overlap.png").is_file()


@pytest.mark.parametrize(("argument", "sentence"), [("--ranks=0,4", "numbers above 0 or 'full'"), ("--seeds=0", "at least 1")])
def test_bad_arguments_are_a_sentence(argument, sentence, capsys):
    with pytest.raises(SystemExit):
        editing.main([argument])
    assert sentence in capsys.readouterr().err
