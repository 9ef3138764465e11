"""Another model as the frozen reference: its scores, live and cached, and what is refused."""

import json

import numpy as np
import pytest
from recipe_runs import other_model
from world import command, metrics

from mpo_jax import losses
from mpo_jax.data.dataset import DataConfig
from mpo_jax.errors import InputError
from mpo_jax.training.config import TrainConfig


@pytest.fixture(scope="module")
def other(world, tmp_path_factory):
    return other_model(world, tmp_path_factory.mktemp("other") / "model")


def first(run) -> dict:
    return next(line for line in metrics(run) if "loss" in line)


def test_it_is_what_the_policy_is_compared_with(world, whole, other, tmp_path):
    """At the first update the hidden states of a policy differ from those of another model, and its goal is the other's gap."""
    own = first(whole)
    assert own["loss/retain"] < 1e-9
    live = first(command(world, tmp_path / "live", f"--config.reference_model={other}"))
    assert live["loss/retain"] > 1e-6 and live["gap/goal"] != own["gap/goal"]
    other_way = first(command(world, tmp_path / "other", f"--config.model={other}"))
    np.testing.assert_allclose(live["gap/goal"], other_way["gap/goal"], rtol=1e-5, err_msg="the goal is that of the other model")
    np.testing.assert_allclose(live["gap/sw"], own["gap/sw"], rtol=1e-5)


def test_cached_and_beside_an_adapter_it_is_the_same(world, other, tmp_path):
    given = [f"--config.reference_model={other}"]
    live = metrics(command(world, tmp_path / "live", *given))
    cached = metrics(command(world, tmp_path / "cached", *given, "--config.reference=cached"))
    adapted = first(command(world, tmp_path / "adapted", *given, "--config.lora.rank=2"))
    for a, b in zip(live, cached, strict=True):
        for name in ("loss", "gap/goal", "loss/retain"):
            if name in a:
                np.testing.assert_allclose(b[name], a[name], rtol=1e-4)
    np.testing.assert_allclose(adapted["loss"], next(line["loss"] for line in live if "loss" in line), rtol=1e-4)


def test_a_run_goes_on_with_its_own_reference_only(world, other, tmp_path, interrupted):
    run = [f"--config.reference_model={other}"]
    with interrupted(2):
        command(world, tmp_path / "run", *run)
    with pytest.raises(InputError, match=r"belongs to another run: .*reference_model"):
        command(world, tmp_path / "run", "--config.checkpoint.resume=auto")


def test_what_cannot_be_a_reference_is_a_sentence(world, other, tmp_path):
    with pytest.raises(InputError, match="reference_model='x' has no effect, since Sft reads no reference"):
        TrainConfig(model="m", data=DataConfig(path="p"), output="o", loss=losses.Sft(), reference_model="x")
    config = json.loads((other / "config.json").read_text())
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    for path in other.iterdir():
        (narrow / path.name).write_bytes(path.read_bytes())
    (narrow / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(InputError, match=r"another kind of model than the one in training .layer.* was .* and is now"):
        command(world, tmp_path / "run", f"--config.reference_model={narrow}")
