"""A grid's runs share what they can, each is the run that `train` would make, and none is made twice."""

import itertools
import json

import pytest
from world import config_file, metrics

from mpo_jax import losses, sweep
from mpo_jax.data.dataset import DataConfig
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.errors import Diverged
from mpo_jax.training import config as configs
from mpo_jax.training import grid, loop
from mpo_jax.training.step import TrainStep
from mpo_jax.training.step_arguments import what_compiles


def arguments(world, folder, text: str) -> list[str]:
    return [f"--config={config_file(world, folder)}", f"--grid={text}"]


@pytest.mark.slow
def test_a_sweep_compiles_once_resumes_and_is_what_train_makes(world, tmp_path, monkeypatch, capsys):
    """Killed in the second of two points, after its checkpoint of update 2, and begun again."""
    traced, done_before, taken = [], [], []
    run, batch_at, gradient = loop.train, Pipeline.batch_at, TrainStep.gradient

    def counted(self, *args):
        traced.append(args)
        return gradient(self, *args)

    def recorded(config, shared):
        done_before.append(len(traced))
        run(config, shared)

    def killed(self, step):
        if self.seed is not None:
            taken.append(step)
            if taken.count(3) == 2:
                raise KeyboardInterrupt
        return batch_at(self, step)

    points = grid.parse_points(arguments(world, tmp_path, "loss.beta=0.5,1.5"))
    assert [point.name for point in points] == ["loss.beta=0.5", "loss.beta=1.5"]
    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "gradient", counted)
        patch.setattr(grid, "train", recorded)
        patch.setattr(Pipeline, "batch_at", killed)
        with pytest.raises(KeyboardInterrupt):
            grid.sweep(points)
    assert done_before[0] == 0 < done_before[1] == len(traced), "the second point traced, and so compiled, nothing"
    capsys.readouterr()
    lines = grid.sweep(points)["points"]
    said = capsys.readouterr().out
    assert "point 1 of 2, loss.beta=0.5: already finished" in said
    assert "continuing after update 2" in said
    assert [line["settings"] for line in lines] == [{"loss.beta": "0.5"}, {"loss.beta": "1.5"}]
    assert lines == json.loads((tmp_path / "run" / "sweep.json").read_text())
    assert (tmp_path / "run" / "sweep.png").is_file()
    assert not (points[1].folder / "checkpoints").exists() and not (points[1].folder / "export").exists()
    # the same point by itself
    loop.train(configs.parse([arguments(world, tmp_path / "alone", "")[0], "--config.loss.beta=1.5"]))
    ours, theirs = metrics(points[1].folder), metrics(tmp_path / "alone" / "run")
    assert len(ours) == len(theirs)
    for line, like in zip(ours, theirs, strict=True):
        assert line == pytest.approx(like, rel=1e-4, abs=1e-6)
    assert ours[-1]["eval_loss"] == lines[1]["loss"] != lines[0]["loss"]


def test_what_cannot_be_an_argument_compiles_anew(world, tmp_path):
    """Points that share a program lie side by side."""
    points = grid.parse_points(
        arguments(world, tmp_path, "loss.beta=0.5,1.5 loss.retain=0,0.5,2.0 loss.retain_pooling=mean,last")
    )
    assert len(points) == 12
    keys = [json.dumps(what_compiles(point.config)) for point in points]
    changes = sum(a != b for a, b in itertools.pairwise(keys))
    assert len(set(keys)) == changes + 1 == 4  # two poolings, with and without retention


def test_the_numbers_of_a_sum_are_arguments_too():
    """What is 0 stays in the description, and so does what is no number."""
    terms = {"dpo": losses.Dpo(beta=0.2), "other": losses.Mpo(retain=0.0)}
    config = configs.TrainConfig("model", DataConfig("rows.jsonl"), "out", loss=losses.Sum(terms, weights={"dpo": 0.5}))
    left = what_compiles(config)["loss"]
    assert left["terms"]["dpo"] == {"type": "Dpo", "side": "target"}
    assert "beta" not in left["terms"]["other"] and left["terms"]["other"]["retain"] == 0.0
    assert left["weights"] == {}


def test_a_loss_that_is_not_finite_is_a_line_of_the_table(world, tmp_path, monkeypatch, capsys):
    points = grid.parse_points(arguments(world, tmp_path, "loss.beta=0.5,1.5"))

    def diverges(config, shared):
        raise Diverged("The loss of update 1 is not finite.")

    monkeypatch.setattr(grid, "train", diverges)
    points[0].folder.parent.mkdir(parents=True)
    lines = grid.sweep(points)["points"]
    assert [line["diverged"] for line in lines] == 2 * ["The loss of update 1 is not finite."]
    assert "not finite" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("loss.beta", "is not a field with values"),
        ("loss.beta=", "is not a field with values"),
        ("loss.beta=1,", "is not a field with values"),
        ("loss.beta=1 loss.beta=2", "repeats a field"),
        ("loss.beta=1,1", "repeats a field or a value"),
        ("loss.bta=1", "did you mean 'beta'"),
        ("loss.beta=much", "cannot be read"),
        ("loss.beta=-1", "must be above 0"),
        ("output=a,b", "does not change what is learnt"),
        ("data.path=a/b.json", "cannot be part of a folder's name"),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused_before_anything_runs(world, tmp_path, capsys, text, sentence):
    with pytest.raises(SystemExit):
        sweep.main(arguments(world, tmp_path, text))
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_one_grid_is_given(world, tmp_path, capsys):
    with pytest.raises(SystemExit):
        sweep.main(arguments(world, tmp_path, "loss.beta=1")[:1])
    assert "No grid was given" in capsys.readouterr().err
