"""The rule for what the backward pass keeps where a config leaves it open: logits first, then as much of the layers as fits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mpo_jax.data.dataset import DataConfig
from mpo_jax.errors import InputError
from mpo_jax.losses import Lens, Mpo
from mpo_jax.scoring.objective import Task, objective
from mpo_jax.telemetry.memory import kept_bytes
from mpo_jax.training import memory_choice
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.memory_choice import chosen, logits_of

AUTO = TrainConfig(model="", data=DataConfig(""), output="", remat="auto", logits="auto", compute_dtype="float32")
MODEL, PACKED = tiny.model(), tiny.packed(0, 4, 24)
LOGITS = 24 * 24 * tiny.VOCAB * 4  # of 24 sequences of 24 positions


def kept(remat: str) -> int:
    return kept_bytes(dataclasses.replace(MODEL, remat=remat), PACKED, jnp.float32)[0]


def choice(config: TrainConfig = AUTO, shape=(1, 1, 1), **changes):
    mesh = tiny.mesh(*shape)
    with jax.set_mesh(mesh):
        model = chosen(dataclasses.replace(config, **changes), MODEL, PACKED, MODEL.abstract(mesh), mesh)
    return model.remat, model.logits


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (LOGITS - 1, ("full", "recompute")),
        (LOGITS, ("full", "keep")),
        (LOGITS + kept("attention"), ("attention", "keep")),
        (LOGITS + kept("dots"), ("dots", "keep")),
        (LOGITS + kept("dots") - 1, ("attention", "keep")),
    ],
)
def test_as_much_is_kept_as_fits(room, expected):
    assert logits_of(PACKED, MODEL, tiny.mesh()) == LOGITS
    assert choice(kept_gb=room / 1e9) == expected


def test_devices_share_what_is_kept():
    """The vocabulary is cut by `tensor`, the tokens by both other axes; the layers' states by these alone."""
    assert logits_of(PACKED, MODEL, tiny.mesh(2, 2, 2)) * 8 == LOGITS
    with jax.set_mesh(tiny.mesh(2, 2, 2)):
        products = kept("dots")
    assert choice(shape=(2, 2, 2), logits="recompute", kept_gb=products / 4e9) == ("dots", "recompute")
    assert choice(shape=(2, 2, 2), logits="recompute", kept_gb=(products - 4) / 4e9) == ("attention", "recompute")


def test_what_the_config_says_is_not_chosen():
    assert choice(remat="offload", kept_gb=1) == ("offload", "keep")
    assert choice(logits="keep", kept_gb=0) == ("full", "keep")
    assert choice(remat="dots", logits="recompute") == ("dots", "recompute")


def test_a_cpu_knows_its_memory_and_other_devices_are_asked_about(monkeypatch):
    assert choice() == ("dots", "keep")
    monkeypatch.setattr(memory_choice, "_cpu_memory", lambda mesh: LOGITS - 1)
    with pytest.raises(InputError, match=r"^logits='keep' would keep .* GB of logits on each device, which has .*recompute"):
        choice(remat="full", logits="keep")
    monkeypatch.setattr(memory_choice, "_cpu_memory", lambda mesh: None)
    with pytest.raises(InputError, match=r"write --config\.kept_gb=GB"):
        choice()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"remat": "full", "logits": "recompute", "kept_gb": 1.0}, "kept_gb=1.0 must be"),
        ({"kept_gb": -1.0}, "kept_gb=-1.0 must be"),
        ({"logits": "some"}, "logits='some' is not known: write one of 'recompute', 'keep', 'auto'"),
        ({"loss": Lens()}, "logits='auto' has no effect, since Lens reads no log-probability"),
    ],
)
def test_a_setting_without_effect_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(AUTO, **changes)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 4), (2, 2, 2)], ids=str)
def test_what_is_kept_changes_no_number(shape):
    """The loss and all gradients of a batch, with everything kept and with nothing."""
    params, reference = tiny.two_params(MODEL)
    batch = tiny.batch(4)

    def run(remat, logits):
        task = Task(dataclasses.replace(MODEL, remat=remat, logits=logits), Mpo(), tiny.LANGUAGES)
        return jax.jit(jax.value_and_grad(lambda p: objective(task, p, reference, batch)[0].total))(params)

    with jax.set_mesh(tiny.mesh(*shape)):
        (least, least_grads), (most, most_grads) = run("full", "recompute"), run("none", "keep")
    np.testing.assert_allclose(least, most, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()), least_grads, most_grads)
