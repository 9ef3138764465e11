"""The model card says what a reader has to know, and nothing of the machine it was made on."""

import dataclasses
import json
import re

import pytest

from mpo_jax import __version__
from mpo_jax.checkpoints.model_card import LEARNT, model_card, public_name
from mpo_jax.data.dataset import DataConfig
from mpo_jax.evaluation.gap_table import RowGap, format_tables, gap_table
from mpo_jax.training.config import TrainConfig, describe
from mpo_jax.training.run_identity import FREE

SAMPLES = "sw  habari\n    before training:    nzuri"


def card(model, data, samples=""):
    tables = {name: gap_table([RowGap("1", "sw", gap, "en", "k", 2.0)]) for name, gap in (("before", -1.0), ("after", 1.75))}
    config = TrainConfig(model=model, data=data, output="/home/somebody/runs/1")
    given = {"languages": ["sw", "zh"], "rows": 600, "metrics": {"loss": 0.25}, "measured_rows": "64 of 600 training rows"}
    changes = "3 of 4 weights differ"
    return model_card(describe(config), gaps=format_tables(tables), samples=samples, changes=changes, **given)


def test_what_a_reader_has_to_know():
    text = card("meta-llama/Llama-3.1-8B-Instruct", DataConfig(path="user/rows"))
    for part in ("base_model: meta-llama/Llama-3.1-8B-Instruct", "- sw\n- zh", "600 parallel preference rows of `user/rows`"):
        assert part in text
    parts = [
        "on 64 of 600 training rows",
        "## Weights\n\n3 of 4 weights differ.",
        "+1.750",
        "-1.000",
        "loss: 0.25",
        f"mpo_jax {__version__}",
        "arXiv:2505.16869",
    ]
    for part in (*parts, "@inproceedings", "## Limits"):
        assert part in text
    config = json.loads(re.search(r"```json\n(.*?)\n```", text, re.DOTALL)[1])
    assert config["loss"] == {"type": "Mpo", **config["loss"]}
    assert config["optim"]["peak_lr"] == 6e-7


def test_samples_have_a_section_where_there_are_some():
    data = DataConfig(path="user/rows")
    assert "Samples" not in card("m", data)
    assert re.search(
        r"## Samples\n\n[^`]*\n\n```\nsw  habari\n    before training:    nzuri\n```\n\n## Last", card("m", data, SAMPLES)
    )


def named(tree, path=""):
    """A description in which every setting is a path that ends in its own name."""
    if isinstance(tree, dict):
        return {name: named(part, f"{path}{name}-") for name, part in tree.items()}
    return f"/home/somebody/secret/{path}0"


def test_a_card_shows_what_decides_what_was_learnt_and_no_path():
    """Of every setting that there is; an address is a setting like another."""
    description = named(describe(TrainConfig(model="m", data=DataConfig(path="d"), output="o")))
    text = model_card(description, languages=["sw"], rows=1, metrics={}, gaps="", measured_rows="", samples="", changes="")
    assert "somebody" not in text and "secret" not in text
    assert "base_model:" not in text, "a local folder is not a name on the hub"
    assert "# model-0, aligned" in text and "rows of `data-path-0`" in text
    shown = set(re.findall(r"[\w-]+-0", text))
    assert shown >= {"data-texts-0", "loss-beta-0", "optim-peak_lr-0", "seed-0"}
    assert {name.partition("-")[0] for name in shown} == set(LEARNT)
    assert not shown & {"optim-offload-0", "output-0", "hosts-coordinator-0", "mesh-fsdp-0", "reference_store-0"}


def test_every_setting_is_learnt_from_or_free():
    """A new one belongs to one of the two."""
    assert {field.name for field in dataclasses.fields(TrainConfig)} == {*LEARNT, *FREE}
    assert not set(LEARNT) & set(FREE)


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("google/gemma-2-9b-it", "google/gemma-2-9b-it"),
        ("google/gemma-2-9b-it@v1.0", "google/gemma-2-9b-it@v1.0"),
        ("user/rows@refs/pr/1:train[:10%]", "user/rows@refs/pr/1:train[:10%]"),
        ("gpt2", "gpt2"),
        ("/home/me/model", "model"),
        ("/home/me/model/", "model"),
        ("~/model", "model"),
        ("~me", "a local folder"),
        ("../me/model", "model"),
        ("me/secret/model", "model"),
        ("secret/rows.jsonl", "rows.jsonl"),
        ("gs://bucket/me/model", "model"),
        ("C:\\Users\\me\\model", "model"),
        ("C:/Users/me/model", "model"),
        ("\\\\server\\me\\model", "model"),
        ("me/a model", "a model"),
    ],
)
def test_of_a_path_only_the_last_part_is_public(name, public):
    """Whether it is there or not; a name of the hub stays whole."""
    assert public_name(name) == public


def test_what_looks_like_a_name_of_the_hub_and_is_here_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "secret" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("secret/model") == "model"


def test_the_card_names_the_revision():
    text = card("google/gemma-2-9b-it@v1.0", DataConfig(path="user/rows@v2:train"))
    for part in (
        "base_model: google/gemma-2-9b-it\n",
        "# google/gemma-2-9b-it, aligned",
        "`google/gemma-2-9b-it@v1.0`, trained with",
    ):
        assert part in text
    assert "rows of `user/rows@v2:train`" in text
