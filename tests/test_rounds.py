"""Two rounds of a recipe on a toy model: cut short anywhere and continued, they are the rounds of one run."""

import json

import pytest
from recipe_runs import other_model
from world import write_lines

from mpo_jax import rounds
from mpo_jax.checkpoints.safetensors_files import catalogue
from mpo_jax.generation import records
from mpo_jax.recipes import rewards
from mpo_jax.training import loop

pytestmark = pytest.mark.slow

CONFIG = """
from mpo_jax import losses
from mpo_jax.checkpoints.run_state import CheckpointConfig
from mpo_jax.data.dataset import DataConfig
from mpo_jax.recipes.rounds import RoundsConfig
from mpo_jax.telemetry.writers import MetricsConfig
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.optim import OptimConfig

def get_config(variant=None):
    return RoundsConfig(
        model={model!r},
        output={output!r},
        build=(
            "--recipe=icr", "--prompts={prompts}", "--languages=sw", "--denominator={other}", "--samples=3", "--template=hf",
            "--max-new-tokens=6", "--dtype=float32", "--source",
        ),
        reference="first",
        train=TrainConfig(
            model="", output="", data=DataConfig(path="", template="hf", cache=""),
            loss=losses.Sum({{"dpo": losses.Dpo(), "nll": losses.Sft()}}),
            optim=OptimConfig(peak_lr=1e-3, eps=1e-3), epochs=1, batch_size=2, compute_dtype="float32", reference_dtype="float32",
            checkpoint=CheckpointConfig(every=1), metrics=MetricsConfig(tensorboard=False), compilation_cache="",
        ),
    )
"""


@pytest.fixture(scope="module")
def other(world, tmp_path_factory):
    return other_model(world, tmp_path_factory.mktemp("other") / "model")


def config_file(world, other, folder):
    lines = [{"id": f"q{i}", "language": of, "prompt": f"{of} question {i}"} for i in range(4) for of in ("en", "sw")]
    folder.mkdir(exist_ok=True)
    write_lines(folder / "prompts.jsonl", lines)
    given = {"model": str(world / "model"), "output": str(folder / "out"), "prompts": folder / "prompts.jsonl", "other": other}
    (folder / "config_of_rounds.py").write_text(CONFIG.format(**given))
    return f"--config={folder / 'config_of_rounds.py'}"


def left(folder) -> dict[str, object]:
    """Rows and weights of both rounds."""
    found = {}
    for number in (1, 2):
        of = folder / "out" / f"round_{number}"
        found[f"rows {number}"] = (of / "data" / "rows.jsonl").read_bytes()
        stored = catalogue(of / "run" / "export")
        found[f"weights {number}"] = {n: x[(slice(None),) * len(x.shape)].tobytes() for n, x in stored.items()}
    return found


@pytest.fixture(scope="module")
def undisturbed(world, other, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds") / "a"
    rounds.main([config_file(world, other, folder)])
    return folder


def test_each_round_answers_with_the_model_of_the_one_before(undisturbed, world, capsys):
    found = left(undisturbed)
    assert found["weights 1"] != found["weights 2"] and found["rows 1"] != found["rows 2"]
    config = json.loads((undisturbed / "out" / "round_2" / "run" / "config.json").read_text())
    assert config["model"].endswith("round_1/run/export") and config["reference_model"] == str(world / "model")
    manifests = [json.loads((undisturbed / "out" / f"round_{n}" / "data" / "manifest.json").read_text()) for n in (1, 2)]
    assert manifests[0]["models"]["model"] != manifests[1]["models"]["model"]
    assert manifests[0]["models"]["denominator"] == manifests[1]["models"]["denominator"]
    rounds.main([f"--config={undisturbed / 'config_of_rounds.py'}"])
    said = capsys.readouterr().out
    assert "round 1 of 2" in said and "is there" in said and "mpo_jax.build" not in said


CUT = {"sampling": (records.Records, "write", 2), "scoring": (rewards, "write_logps", 2), "export": (loop, "export", 1)}


@pytest.mark.parametrize("where", [*CUT, "training"])
def test_rounds_cut_short_are_those_of_one_run(undisturbed, world, other, tmp_path, monkeypatch, interrupted, where):
    given = config_file(world, other, tmp_path / "b")
    if where == "training":
        with interrupted(1):
            rounds.main([given])
    else:
        owner, name, last = CUT[where]
        whole, calls = getattr(owner, name), []

        def ends(*args, **options):
            calls.append(1)
            if len(calls) == last:
                raise KeyboardInterrupt
            return whole(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, ends)
            with pytest.raises(KeyboardInterrupt):
                rounds.main([given])
    rounds.main([given])
    assert left(tmp_path / "b") == left(undisturbed)
