"""The model card says what a reader has to know, and nothing of the machine it was made on."""

import json
import re

import pytest

from mpo_jax import __version__
from mpo_jax.checkpoints.model_card import model_card, public_name
from mpo_jax.data.dataset import DataConfig
from mpo_jax.evaluation.gap_table import RowGap, format_tables, gap_table
from mpo_jax.training.config import TrainConfig, describe


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "home" / "somebody"
    (home / "my-model").mkdir(parents=True)
    (home / "rows.jsonl").touch()
    (home / "texts.jsonl").touch()
    return home


def card(model, data):
    tables = {name: gap_table([RowGap("1", "sw", gap, "en", "k", 2.0)]) for name, gap in (("before", -1.0), ("after", 1.75))}
    config = TrainConfig(model=model, data=data, output="/home/somebody/runs/1")
    return model_card(describe(config), languages=["sw", "zh"], rows=600, metrics={"loss": 0.25}, gaps=format_tables(tables))


def test_what_a_reader_has_to_know():
    text = card("meta-llama/Llama-3.1-8B-Instruct", DataConfig(path="user/rows"))
    for part in ("base_model: meta-llama/Llama-3.1-8B-Instruct", "- sw\n- zh", "600 parallel preference rows of `user/rows`"):
        assert part in text
    for part in ("+1.750", "-1.000", "loss: 0.25", f"mpo_jax {__version__}", "arXiv:2505.16869", "@inproceedings", "## Limits"):
        assert part in text
    config = json.loads(re.search(r"```json\n(.*?)\n```", text, re.DOTALL)[1])
    assert config["loss"] == {"type": "Mpo", **config["loss"]}
    assert config["optim"]["peak_lr"] == 6e-7


def test_no_path_of_the_machine(folder):
    data = DataConfig(path=str(folder / "rows.jsonl"), texts=str(folder / "texts.jsonl"))
    text = card(str(folder / "my-model"), data)
    assert "somebody" not in text
    assert str(folder.parent) not in text
    assert "base_model:" not in text, "a local folder is not a name on the hub"
    assert "# my-model, aligned" in text
    assert "rows.jsonl" in text


def test_names_of_the_hub_stay_whole(folder):
    assert public_name("google/gemma-2-9b-it") == "google/gemma-2-9b-it"
    assert public_name(str(folder / "my-model")) == "my-model"
