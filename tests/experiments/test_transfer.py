"""A study from its command line to its tables, in seconds; what is measured, and that training is the library's own."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpo_jax import losses
from mpo_jax.experiments import transfer
from mpo_jax.experiments.base import _code, base_of
from mpo_jax.experiments.learning import MODEL, make_train, order_of, stacked
from mpo_jax.experiments.measuring import make_measure
from mpo_jax.experiments.methods import METHODS, Method
from mpo_jax.experiments.results import BASE
from mpo_jax.experiments.world import DOMINANT, LANGUAGES, TARGETS, Noise, Request, World, preference_rows
from mpo_jax.models.parameters import Frozen
from mpo_jax.scoring.objective import Task
from mpo_jax.training.optim import OptimConfig, make_optimizer
from mpo_jax.training.step import TrainStep
from mpo_jax.training.step_arguments import step_numbers
from mpo_jax.types import Reads, TrainState

ROWS = preference_rows(World(0), 0, 4, Noise())


@pytest.fixture(scope="module")
def params():
    """Random parameters, large enough for probabilities to differ."""
    return jax.tree.map(lambda x: 5 * x, MODEL.init(jax.random.key(0)))


@pytest.mark.slow
def test_the_command_writes_its_results_and_the_same_again(tmp_path, monkeypatch):
    """A method is added by one line; base models are kept; a method's numbers do not depend on what else is compared."""
    parse = transfer.parse

    def tiny(argv):
        study, folder = parse(argv)
        return dataclasses.replace(study, prompts=4, requests=2, base_updates=2), folder

    def runs(*arguments: str) -> list[dict]:
        transfer.main(["--seeds=1", "--flips=0", f"--out={tmp_path}", *arguments])
        return json.loads((tmp_path / "results.json").read_text())["runs"]

    monkeypatch.setattr(transfer, "parse", tiny)
    monkeypatch.setitem(METHODS, "mine", Method(losses.Simpo(beta=1.0), both=True, grid=(1e-3, 2e-3)))
    monkeypatch.setitem(METHODS, "sft", dataclasses.replace(METHODS["sft"], grid=(1e-3,)))
    first = runs("--methods=sft,mine", "--noise=0,0.5")
    words = [(run["method"], run["noise"]["words"]) for run in first]
    assert words == [(BASE, 0), ("sft", 0), ("sft", 0.5), ("mine", 0), ("mine", 0.5)]
    assert all(np.isfinite(list(run["values"].values())).all() for run in first)
    assert first[3]["values"] != first[4]["values"] != first[0]["values"]
    assert "`mine`" in (tmp_path / "tables.md").read_text()
    assert (tmp_path / "noise.png").is_file()
    assert len(list((tmp_path / "bases").iterdir())) == 2  # of the seed and of the validation seed
    again = runs("--methods=mine", "--noise=0")
    assert again == [first[0], first[3]]


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--methods=mop", "did you mean 'mpo'?"),
        ("--seeds=0", "must be at least 1"),
        ("--noise=0.1,0.2", "0 first"),
        ("--flips=0,2", "shares from 0 to 1"),
        ("--flips=0,some", "shares from 0 to 1"),
    ],
)
def test_a_mistake_is_a_sentence(argument, sentence, capsys):
    with pytest.raises(SystemExit):
        transfer.main([argument])
    assert sentence in capsys.readouterr().err


def test_methods_without_a_dominant_side_train_on_both_sides_pairs():
    both = Method(losses.Dpo(), both=True).rows(ROWS)
    assert [row.source for row in both] == len(both) * [None]
    assert [row.language for row in both].count(DOMINANT) == 4
    assert len(both) == 4 * (1 + len(TARGETS))
    parallel = Method(losses.Mpo(gap_target="b")).rows(ROWS)
    assert all(row.parallel is ROWS[6 * (i // 6) + 1].target for i, row in enumerate(parallel))
    assert ROWS[1].language == "b"


def test_training_is_the_librarys_step(params):
    """A scan with the learning rate as an argument is its steps one by one with that learning rate in the config."""
    loss, lr = losses.Sft(), 3e-3
    batches = stacked(ROWS, order_of(ROWS, 8, 1, seed=0), loss.policy_reads, loss.reference_reads)
    scanned = make_train(loss, OptimConfig())(params, jnp.float32(lr), batches)
    updates = batches.weight_B.shape[0]
    optimizer, numbers = make_optimizer(OptimConfig(), updates), step_numbers(loss, lr)
    step = TrainStep(Task(MODEL, loss, LANGUAGES), optimizer, jnp.float32)
    state = TrainState(jnp.int32(0), params, optimizer.transform.init(params))
    for k in range(updates):
        state, _ = jax.jit(step)(state, Frozen({}, params), jax.tree.map(lambda x: x[k], batches), numbers)  # noqa: B023
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), scanned, params)
    assert min(jax.tree.leaves(moved)) > 1e-5
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), scanned, state.trainable)


def test_what_is_measured(params):
    world = World(0)
    measure = make_measure(world, 0, 2)
    found = measure(params, params)
    assert found["drift/hidden"] == 0
    assert abs(found["drift/kl"]) < 1e-6
    other = jax.tree.map(lambda x: 1.1 * x, params)
    moved = measure(params, other)
    assert moved["drift/hidden"] > 0 and moved["drift/kl"] > 1e-4
    assert {name: moved[name] for name in found if "drift" not in name} == {n: found[n] for n in found if "drift" not in n}
    for language in LANGUAGES:
        assert found[f"refuses/{language}"] + found[f"complies/{language}"] < 1
        assert found[f"perplexity/{language}"] > 1


def test_a_model_that_always_opens_with_no_refuses_everything(params, monkeypatch):
    """Its refusals are certain by their first token, and so are its failures to answer safe requests."""
    world = World(0)
    no = [int(world.say(language, ("no", 0))[0]) for language in LANGUAGES]
    table_VD = np.zeros(params["embedding"].shape, np.float32)
    table_VD[:, 0] = 1.0
    table_VD[no, 0] = 3.0
    stubborn = params | {"embedding": jnp.asarray(table_VD), "layers": jax.tree.map(jnp.zeros_like, params["layers"])}
    found = make_measure(world, 0, 2)(stubborn, stubborn)
    total = sum(found[f"refuses/{language}"] for language in LANGUAGES)
    assert total == pytest.approx(1, abs=1e-3)  # every language's word for no is as likely
    assert max(found[f"{name}/{language}"] for language in LANGUAGES for name in ("complies", "answers")) < 1e-3


def test_base_models_are_kept_by_what_decides_them(tmp_path):
    """A kept one is the same again; other numbers of updates, or other code, make another one."""
    _, first = base_of(5, tmp_path, updates=2)
    (path,) = tmp_path.iterdir()
    stamp = path.stat().st_mtime_ns
    _, again = base_of(5, tmp_path, updates=2)
    assert path.stat().st_mtime_ns == stamp
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert _code(2) in path.name and _code(2) != _code(3)


def test_batches_of_a_study_hold_their_rows():
    batch = stacked(ROWS, order_of(ROWS, 8, 1, seed=0), losses.Dpo().policy_reads, Reads())
    assert batch.weight_B.shape == (3, 1, 8) and batch.weight_B.all()
    request = World(0).prompt("a", Request(0, 0, polite=False))
    assert request.dtype == np.int32
