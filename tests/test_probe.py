"""The command that makes LENS's probe: a file that a run takes, and knows again by its contents."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from world import config_file

from mpo_jax import losses, probe
from mpo_jax.data.rows import read_rows
from mpo_jax.errors import InputError
from mpo_jax.losses.language_subspaces import Subspaces
from mpo_jax.scoring.language_probe import make_probe
from mpo_jax.training import loop
from mpo_jax.training.config import parse
from mpo_jax.training.variants import variant_of


def make(world, path, *more: str) -> Subspaces:
    model, rows = str(world / "model"), str(world / "rows.jsonl")
    probe.main(["--model", model, "--data", rows, "--output", str(path), "--template", "hf", "--dtype", "float32", *more])
    return Subspaces.read(path)


def test_the_file_is_of_the_models_languages(world, tmp_path, capsys):
    found = make(world, tmp_path / "new" / "probe.safetensors")
    assert found.languages == ("en", "sw", "ko")
    assert np.abs(found.specific_qD @ found.agnostic_D).max() < 1e-9
    settings = {"template": "hf", "dtype": "float32"}
    np.testing.assert_array_equal(
        found.shift_KD, make_probe(world / "model", read_rows(world / "rows.jsonl"), tiny.mesh(), **settings).shift_KD
    )
    far = {language: np.linalg.norm(shift_D) for language, shift_D in zip(found.languages, found.shift_KD, strict=True)}
    assert f"sw  {far['sw'] / np.linalg.norm(found.agnostic_D):.2f}\n" in capsys.readouterr().out
    assert make(world, tmp_path / "probe.safetensors", "--rank=1").specific_qD.shape[0] == 1


def test_a_run_knows_its_probe_by_what_is_in_it(world, tmp_path):
    """Moved it is the same, made anew it is another."""

    def train(path: Path) -> None:
        config = parse([f"--config={config_file(world, tmp_path)}", "--config.epochs=1", "--config.checkpoint.resume=auto"])
        loop.train(dataclasses.replace(variant_of(config, "lens=1"), loss=losses.Lens(str(path))))

    kept = tmp_path / "probe.safetensors"
    make(world, kept)
    train(kept)
    train(shutil.copy(kept, tmp_path / "moved.safetensors"))
    make(world, kept, "--rank=1")
    with pytest.raises(InputError, match=r"belongs to another run: model files\.loss\.probe was '"):
        train(kept)


@pytest.mark.parametrize(
    ("more", "words"),
    [(["--output", "probe.npz"], "names no local safetensors file"), (["--rank", "3"], "subspaces of rank 1 to 2, not 3")],
    ids=["output", "rank"],
)
def test_bad_input_is_a_sentence(world, tmp_path, capsys, more, words):
    with pytest.raises(SystemExit) as ended:
        make(world, tmp_path / "probe.safetensors", *more)
    assert ended.value.code == 2 and words in capsys.readouterr().err
