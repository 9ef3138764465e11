"""Two runs are the same by what they learn, how, and from what: not by where that lies, nor by the version that wrote it down."""

import dataclasses
import json

import numpy as np
import pytest

from mpo_jax import losses
from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.dataset import Data, DataConfig
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.devices.processes import HostsConfig
from mpo_jax.devices.sharding import MeshConfig
from mpo_jax.training.config import TrainConfig, defaults, describe
from mpo_jax.training.optim import OptimConfig
from mpo_jax.training.run_identity import identity
from mpo_jax.types import Reads

FILES = {"config.json": "0123456789abcdef" * 2, "model.safetensors": "fedcba9876543210" * 2}


def a_config(**settings):
    return TrainConfig(**{"model": "/a/model", "data": DataConfig(path="/a/rows.jsonl"), "output": "/a/run"} | settings)


def pipeline(*firsts):
    """A row for each: its prompt begins with this token."""
    pairs = [TokenPair(*(np.asarray([first, last]) for last in range(3))) for first in firsts]
    return Pipeline([Example(str(i), "sw", None, pair) for i, pair in enumerate(pairs)], ["sw"], 1, 0, Reads(), Reads())


def of(config=None, rows=(1, 2, 3), held_out=(4,), files=FILES):
    train, held = pipeline(*rows), pipeline(*held_out)
    return identity(a_config() if config is None else config, Data(train, held, held, [], "no rows", None, []), files)


def kept(facts):
    """As a checkpoint gives them back."""
    return json.loads(json.dumps(facts))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"epochs": 3}, "epochs was 2 and is now 3"),
        ({"batch_size": 4}, "batch_size was 8 and is now 4"),
        ({"compute_dtype": "float32"}, "compute_dtype was 'bfloat16' and is now 'float32'"),
        ({"reference_dtype": "float32"}, "reference_dtype was 'bfloat16' and is now 'float32'"),
        ({"reference": "cached"}, "reference was 'live' and is now 'cached'"),
        ({"optim": OptimConfig(b1=0.8)}, "optim.b1 was 0.9 and is now 0.8"),
        ({"loss": losses.Mpo(beta=3.0)}, f"loss.beta was {losses.Mpo().beta} and is now 3.0"),
        ({"data": DataConfig(path="d", max_length=9)}, "data.max_length was 1024 and is now 9"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_changes_what_is_learnt_is_another_run(settings, said):
    assert of(a_config(**settings)).differences(kept(of().facts)) == [said]


def test_where_things_lie_and_who_computes_is_no_other_run():
    elsewhere = a_config(
        model="gs://bucket/model",
        output="o",
        data=DataConfig(path="user/rows@v1", eval_path="b", texts="c"),
        optim=OptimConfig(offload=True),
        mesh=MeshConfig(fsdp=2),
        hosts=HostsConfig(timeout=20),
    )
    assert not of(elsewhere).differences(kept(of().facts))
    assert not of().differences(kept(of().facts | {"model": "/b", "output": "x", "defaults": {}})), "whoever wrote them down"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (of(rows=(1, 3, 2)), "contents.rows was '3 with digest "),
        (of(rows=(1, 2, 4)), "contents.rows was '3 with digest "),
        (of(held_out=(5,)), "contents.held-out rows was '1 with digest "),
        (of(files=FILES | {"config.json": "0" * 32}), "model files.config.json was '0123456789abcdef' and is now '0000"),
        (of(files={}), "model files.config.json was '0123456789abcdef' and is now None"),
    ],
    ids=["order", "a row", "a held-out row", "a file", "no file"],
)
def test_other_contents_are_another_run(other, said):
    found = other.differences(kept(of().facts))
    assert found and found[0].startswith(said)


def without(facts, *path):
    """As a version wrote them that did not have this setting."""
    old = kept(facts)
    for tree in (old, old["defaults"]):
        for name in path[:-1]:
            tree = tree[name]
        del tree[path[-1]]
    return old


def test_a_setting_that_the_checkpoint_does_not_know_was_its_default():
    for path in (("epochs",), ("optim", "b2"), ("optim",), ("loss", "beta"), ("data", "pairs")):
        assert not of().differences(without(of().facts, *path)), path
    both = a_config(loss=losses.Sum({"one": losses.Dpo(), "other": losses.Sft()}, weights={"other": 0.2}))
    assert not of(both).differences(without(of(both).facts, "loss", "terms", "one", "beta"))
    assert of(a_config(epochs=3)).differences(without(of().facts, "epochs")) == ["epochs was 2 and is now 3"]
    assert of(a_config(optim=OptimConfig(b2=0.5))).differences(without(of().facts, "optim")) == [
        "optim.b2 was 0.999 and is now 0.5"
    ]


def test_a_setting_that_is_gone_differs_where_it_had_been_set():
    old = kept(of().facts)
    old["defaults"]["optim"]["momentum"] = 0.9
    for value, said in ((0.9, []), (0.5, ["optim.momentum was 0.5 and is now 0.9"])):
        old["optim"]["momentum"] = value
        assert of().differences(old) == said
    unknown = kept(of().facts) | {"gone": 1}
    assert of().differences(unknown) == ["gone was 1 and is now None"]


def test_defaults_are_what_nobody_set():
    """Of the parts that are there, their types where they are the default's."""
    assert defaults(a_config(epochs=7, loss=losses.Mpo(beta=9.0))) == defaults(a_config())
    found = defaults(a_config())
    full = describe(a_config())
    assert {*full} - {*found} == {"type", "model", "output"}
    assert {*full["data"]} - {*found["data"]} == {"type", "path"}
    assert found["loss"] == full["loss"]
    assert defaults(a_config(loss=losses.Dpo(beta=9.0)))["loss"] == dataclasses.asdict(losses.Dpo())


def test_facts_come_back_from_json_as_they_were():
    assert kept(of().facts) == of().facts
