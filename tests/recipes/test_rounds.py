"""What each round starts from, trains on and is compared with."""

import dataclasses
import shlex
from pathlib import Path

import pytest

from mpo_jax import losses, rounds
from mpo_jax.data.dataset import DataConfig
from mpo_jax.errors import InputError
from mpo_jax.recipes.rounds import RoundsConfig
from mpo_jax.training.config import TrainConfig, load, parse, parse_any

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "icr_llama3.py"


def config(**changes) -> RoundsConfig:
    train = TrainConfig(model="", data=DataConfig(path="", max_length=99), output="", loss=losses.Dpo())
    build = ("--recipe=icr", "--prompts=p{round}.jsonl", "--numerator={start}", "--denominator={previous}")
    return RoundsConfig(**{"model": "base", "output": "out", "build": build, "train": train, "rounds": 3} | changes)


def test_the_model_of_a_round_is_the_start_of_the_next():
    one, two, three = config().carried_out()
    assert [shlex.join(of.build) for of in (one, two, three)] == [
        "--recipe=icr --prompts=p1.jsonl --numerator=base --denominator=base --model=base --output=out/round_1/data",
        "--recipe=icr --prompts=p2.jsonl --numerator=out/round_1/run/export --denominator=base "
        "--model=out/round_1/run/export --output=out/round_2/data",
        "--recipe=icr --prompts=p3.jsonl --numerator=out/round_2/run/export --denominator=out/round_1/run/export "
        "--model=out/round_2/run/export --output=out/round_3/data",
    ]
    assert [of.train.model for of in (one, two, three)] == ["base", "out/round_1/run/export", "out/round_2/run/export"]
    assert two.train.data == DataConfig(path="out/round_2/data/rows.jsonl", max_length=99)
    assert (two.train.output, two.train.checkpoint.resume, str(two.export)) == (
        "out/round_2/run",
        "auto",
        "out/round_2/run/export",
    )


@pytest.mark.parametrize(
    ("reference", "models"),
    [
        ("start", [None, None, None]),  # None: a training's own start
        ("first", [None, "base", "base"]),
        ("previous", [None, "base", "out/round_1/run/export"]),
        ("sft", ["sft", "sft", "sft"]),
    ],
)
def test_the_reference_is_one_of_the_models(reference, models):
    assert [of.train.reference_model for of in config(reference=reference).carried_out()] == models


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rounds": 0}, "rounds=0 must be at least 1"),
        ({"build": ("--model=x",)}, "build has --model, which each round sets by itself"),
        (
            {"build": ("--denominator={last}",)},
            "the name in braces='last' is not known: write one of 'start', 'first', 'previous'",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_a_sentence(changes, words):
    with pytest.raises(InputError, match=words):
        config(**changes)


def test_the_published_config_is_of_rounds_and_its_settings_can_be_changed():
    given = parse_any([f"--config={CONFIG}:kto", "--config.rounds=1", "--config.train.optim.peak_lr=1e-6"])
    assert isinstance(given, RoundsConfig)
    assert (given.rounds, given.train.optim.peak_lr, given.model) == (1, 1e-6, "princeton-nlp/Llama-3-Base-8B-SFT-KTO")
    assert {dataclasses.replace(load(str(CONFIG), None), output="").build} == {dataclasses.replace(given, output="").build}
    with pytest.raises(InputError, match="not a setting: 'peak' is not known"):
        parse_any([f"--config={CONFIG}", "--config.train.optim.peak=1"])


def test_a_config_of_another_kind_is_named(capsys):
    with pytest.raises(InputError, match="of the kind RoundsConfig, not of a run"):
        parse([f"--config={CONFIG}"])
    with pytest.raises(SystemExit):
        rounds.main(["--config=quickstart"])
    assert "is not one of rounds" in capsys.readouterr().err
