"""A run is built by a file, overridden by names that exist, and checked after that."""

import dataclasses
import json
from pathlib import Path

import pytest

from mpo_jax import losses
from mpo_jax.data.dataset import DataConfig
from mpo_jax.errors import InputError
from mpo_jax.training.config import TrainConfig, describe, format_config, load, parse

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [path for path in sorted((ROOT / "configs").glob("*.py")) if isinstance(load(str(path), None), TrainConfig)]
LLAMA = str(next(path for path in CONFIGS if path.stem == "llama31"))


def overridden(*settings, variant=""):
    return parse([f"--config={LLAMA}{variant}", *(f"--config.{setting}" for setting in settings)])


@pytest.mark.parametrize("variant", [None, "official", "paper"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_builds_in_every_variant(path, variant):
    config = load(str(path), variant)
    assert isinstance(config, TrainConfig)
    assert parse([f"--config={path}{f':{variant}' if variant else ''}"]) == config
    assert f"configs/{path.name}" in path.read_text(encoding="utf-8").split('"""')[1], "the docstring gives the command"


def test_a_config_that_comes_with_the_package_has_a_name(tmp_path, monkeypatch):
    """In any folder, one that holds a folder of this name too."""
    monkeypatch.chdir(tmp_path)
    assert load("llama31", "paper") == load(LLAMA, "paper")
    quickstart = load("quickstart", None)
    assert Path(quickstart.model).is_dir()
    assert all(Path(path).is_file() for path in (quickstart.data.path, quickstart.data.eval_path, quickstart.data.texts))
    (tmp_path / "llama31").mkdir()
    assert parse(["--config=llama31:paper"]) == load(LLAMA, "paper")


def test_the_published_settings():
    """arXiv:2505.16869, Table 8."""
    known = {"llama31": (6e-7, 1.0), "gemma2": (4e-7, 1.5), "qwen25": (6e-7, 1.5)}
    for path in CONFIGS:
        if path.stem in known:
            config = load(str(path), None)
            assert (config.optim.peak_lr, config.loss.beta, config.epochs, config.batch_size) == (*known[path.stem], 2, 8)


def test_a_tenth_of_the_prompts_is_held_out_but_for_the_published_runs():
    for path in CONFIGS:
        fractions = [load(str(path), variant).data.eval_fraction for variant in (None, "dpo", "official", "paper")]
        assert fractions == ([0.0] * 4 if path.stem == "quickstart" else [0.1, 0.1, 0.0, 0.0])


def test_overrides_reach_every_part():
    config = overridden(
        "optim.peak_lr=1e-6", "loss.beta=2.0", "mesh.tensor=2", "data.path=mine.jsonl", "data.eval_path=held.jsonl",
        "metrics.tensorboard=false", "checkpoint.resume=auto", "output=runs/mine", "batch_size=16",
        variant=":paper",
    )  # fmt: skip
    assert (config.optim.peak_lr, config.loss.beta, config.mesh.tensor, config.batch_size) == (1e-6, 2.0, 2, 16)
    assert (config.data.path, config.data.eval_path, config.output) == ("mine.jsonl", "held.jsonl", "runs/mine")
    assert (config.metrics.tensorboard, config.checkpoint.resume) == (False, "auto")
    assert config.loss.retain_pooling == "last_prompt"


WRONG = {
    "a field that is nearly one": (["optim.peek_lr=1e-6"], "'peek_lr' is not known; did you mean 'peak_lr'?"),
    "a part that is nearly one": (["optin.peak_lr=1e-6"], "'optin' is not known; did you mean 'optim'?"),
    "a field of something that has none": (["epochs.x=1"], "--config.epochs.x is not a setting"),
    "a field unlike any": (["qqq=1"], "the settings there are model, data, output"),
    "a word for a number": (["epochs=many"], "The command line cannot be read ("),
    "a number out of range": (["epochs=0"], "epochs=0"),
    "a choice that is none": (["loss.retain_pooling=first"], "loss.retain_pooling='first' is not known: write one of 'mean'"),
    "a check of a part": (["optim.warmup=1.5"], "optim.warmup=1.5"),
    "parts that do not fit": (["batch_size=8", "microbatches=3"], "batch_size=8 cannot be split into microbatches=3"),
    "held out twice": (
        ["data.eval_fraction=0.1", "data.eval_path=x.jsonl"],
        "both hold out rows: leave the path out, or set data.eval_fraction=0.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_a_sentence(case):
    settings, words = WRONG[case]
    with pytest.raises(InputError) as refused:
        overridden(*settings)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_wrong_command_line_is_a_sentence():
    for argv, words in (
        ([], "No config was given: write one, such as --config=quickstart"),
        ([f"--config={LLAMA}", f"--config={LLAMA}"], "More than one config was given: write one"),
        (
            ["--config=configs/nothing.py"],
            "configs/nothing.py does not exist: write the path of a file, or one of the names",
        ),
        ([f"--config={ROOT / 'LICENSE'}"], "LICENSE is not a Python file"),
        ([f"--config={LLAMA}", "epochs=3"], "'epochs=3' is not an option: settings are written --config.name=value"),
        ([f"--config={LLAMA}", "--epochs=3"], "The command line cannot be read ("),
    ):
        with pytest.raises(InputError) as refused:
            parse(argv)
        assert words in str(refused.value)


def test_the_checks_of_the_tree():
    base = {"model": "m", "data": DataConfig(path="d.jsonl"), "output": "o"}
    for wrong in ({"compute_dtype": "int8"}, {"reference_dtype": "f32"}, {"eval_every": -1}, {"microbatches": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            TrainConfig(**base, **wrong)
    with pytest.raises(InputError, match=r"^KL retention .* does not store: write --config.reference=live\.$"):
        overridden("reference=cached", variant=":mpo_kl_of_policy")
    with pytest.raises(InputError, match=r"^The loss reads the reference's states of prompts.* write --config.reference=live\.$"):
        overridden("reference=cached", variant=":lens=30")
    with pytest.raises(
        InputError, match=r"^The loss compares the rows.* microbatches=2 would change it: write .*microbatches=1\.$"
    ):
        overridden("microbatches=2", variant=":cla")
    with pytest.raises(InputError, match=r"export\.dtype='int8'"):
        dataclasses.replace(TrainConfig(**base).export, dtype="int8")


def test_a_description_is_json_and_names_the_method():
    config = load(LLAMA, None)
    description = describe(config)
    assert json.loads(json.dumps(description)) == description
    assert description["loss"] == {"type": "Mpo", **dataclasses.asdict(losses.Mpo(beta=1.0))}
    lines = format_config(description).splitlines()
    assert lines[0] == "type: TrainConfig"
    assert "  beta: 1.0" in lines
    assert len(lines) == sum(1 for _ in leaves_and_nodes(description))


def leaves_and_nodes(tree):
    for name, value in tree.items():
        yield name
        if isinstance(value, dict):
            yield from leaves_and_nodes(value)


def test_a_sum_of_methods_is_built_overridden_and_described(tmp_path):
    (tmp_path / "run.py").write_text(
        "from mpo_jax import losses\n"
        "from mpo_jax.data.dataset import DataConfig\n"
        "from mpo_jax.training.config import TrainConfig\n"
        "def get_config(variant):\n"
        "    both = losses.Sum({'dpo': losses.Dpo(), 'nll': losses.Sft()}, weights={'nll': 0.2})\n"
        "    return TrainConfig(model='m', data=DataConfig(path='d'), output='o', loss=both)\n"
    )
    file = f"--config={tmp_path / 'run.py'}"
    config = parse([file, "--config.loss.terms.dpo.beta=0.3", "--config.loss.weights.nll=0.5"])
    assert config.loss == losses.Sum({"dpo": losses.Dpo(beta=0.3), "nll": losses.Sft()}, weights={"nll": 0.5})
    assert json.loads(json.dumps(describe(config)))["loss"]["terms"]["dpo"] == {"type": "Dpo", "side": "target", "beta": 0.3}
    with pytest.raises(InputError, match="did you mean 'dpo'"):
        parse([file, "--config.loss.terms.dp.beta=0.3"])
    with pytest.raises(InputError, match=r"loss\.beta=-1\.0"):
        parse([file, "--config.loss.terms.dpo.beta=-1.0"])
