"""Every method through the ordinary step: one device = eight, one batch = its microbatches; what is not read is not traced."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mpo_jax import losses
from mpo_jax.devices.sharding import batch_to_mesh
from mpo_jax.models.parameters import Frozen
from mpo_jax.scoring.objective import Task, objective
from mpo_jax.scoring.sequences import make_score_step
from mpo_jax.training.optim import OptimConfig, make_optimizer
from mpo_jax.training.step import TrainStep, abstract_state, init_state, jit_train_step, make_eval_step
from mpo_jax.training.step_arguments import on_mesh, step_numbers
from mpo_jax.types import Reads

ROWS = 4
MODEL = tiny.model(layers=1, layer_windows=(None,))
# Together they compile once, and each one's metrics and loss are kept apart.
EVERY = losses.Sum(
    {
        "sft": losses.Sft(reduction="token_mean"),
        "dpo": losses.Dpo(),
        "dominant": losses.Dpo(side="source"),
        "ipo": losses.Ipo(),
        "robust_dpo": losses.RobustDpo(),
        "cpo": losses.Cpo(),
        "kto": losses.Kto(),
        "orpo": losses.Orpo(),
        "length_regularized_dpo": losses.LengthRegularizedDpo(),
        "simpo": losses.Simpo(),
        "mpo": losses.Mpo(),
        "other": losses.Mpo(gap_target="ar"),
        "kl": losses.Mpo(retain_by="kl_of_policy"),
        "own": losses.Mpo(gap_target="policy", rg_normalize=False),
    },
    weights={"own": 0.01},
)
PEAK_LR = 1e-3
OPTIMIZER = make_optimizer(OptimConfig(warmup=0.0, eps=1e-3, clip_norm=1e9), 10)


def run(on, parts: int):
    """(metrics of one step, parameters after it)."""
    with jax.set_mesh(on):
        policy, reference = (tiny.place(MODEL, params, on) for params in tiny.two_params(MODEL))
        step = jit_train_step(
            TrainStep(Task(MODEL, EVERY, tiny.LANGUAGES), OPTIMIZER, jnp.float32),
            abstract_state(policy, OPTIMIZER, on),
        )
        batch = batch_to_mesh(tiny.micro(tiny.batch(ROWS, weight=[1, 1, 1, 0], divergence=True), parts), on)
        state, numbers = init_state(policy, OPTIMIZER, on), on_mesh(step_numbers(EVERY, PEAK_LR), on)
        with jax.transfer_guard("disallow"):
            state, metrics = step(state, Frozen({}, reference), batch, numbers)
        values = {k: float(m.total / m.weight) for k, m in jax.device_get(metrics).items()}
        return values, jax.device_get(state.trainable)


@pytest.fixture(scope="module")
def plain():
    return run(tiny.mesh(), 1)


@pytest.mark.parametrize(("shape", "parts"), [((1, 1, 1), 4), ((2, 2, 2), 1)], ids=["microbatches", "eight devices"])
def test_every_method_computes_the_same_on_any_mesh_and_in_microbatches(plain, shape, parts):
    (values, params), (other_values, other_params) = plain, run(tiny.mesh(*shape), parts)
    tiny.assert_metrics(other_values, values, rtol=2e-5)
    for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(other_params), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(x).max())


def test_evaluation_in_microbatches_is_that_of_every_method_in_training(plain):
    """What a microbatch has to know of the whole batch, such as KTO's reference point, it knows here too."""
    policy, reference = tiny.two_params(MODEL)
    step = make_eval_step(Task(MODEL, EVERY, tiny.LANGUAGES), jnp.float32)
    batch = tiny.micro(tiny.batch(ROWS, weight=[1, 1, 1, 0], divergence=True), 2)
    means, scores = step(policy, Frozen({}, reference), batch, step_numbers(EVERY, PEAK_LR))
    alone = make_score_step(MODEL, jnp.float32, Reads.answers(source=True))(policy, batch)
    assert jax.tree.structure(scores) == jax.tree.structure(alone)
    for x, y in zip(jax.tree.leaves(scores), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)
    tiny.assert_metrics({name: mean.value for name, mean in means.items()}, {name: plain[0][name] for name in means}, rtol=2e-5)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_token_mean_is_over_the_chosen_tokens_of_the_batch(side):
    batch = dataclasses.replace(tiny.batch(ROWS), reference=None)
    policy, _ = tiny.two_params(MODEL)
    loss, metrics = objective(Task(MODEL, losses.Sft(reduction="token_mean", side=side), ()), policy, {}, batch)
    first = 2 * ROWS * ["source", "target"].index(side)
    slot_SA = batch.policy.answer_slot_SA
    tokens = ((slot_SA >= first) & (slot_SA < first + ROWS)).sum()
    np.testing.assert_allclose(loss.value, -metrics["logps/chosen"].total / tokens, rtol=1e-5)


def test_the_loss_is_the_weighted_sum_of_the_methods(plain):
    values = plain[0]
    total = sum(EVERY.weights.get(name, 1.0) * values[f"loss/{name}"] for name in EVERY.terms)
    np.testing.assert_allclose(values["loss"], total, rtol=1e-5)
    assert values["kto/z0"] >= 0
    assert values["kl/loss/retain"] > 0


@pytest.mark.parametrize("loss", [losses.Sft(), losses.Cpo(), losses.Orpo(), losses.Simpo()], ids=lambda x: type(x).__name__)
def test_no_reference_is_traced_where_none_is_read(loss):
    """There is nothing to trace: no parameters come, and no sequences."""
    assert not loss.reference_reads.anything
    policy, _ = tiny.two_params(MODEL)
    batch = dataclasses.replace(tiny.batch(ROWS), reference=None)
    value, _ = jax.eval_shape(functools.partial(objective, Task(MODEL, loss, ())), policy, {}, batch)
    assert value.total.shape == ()


def test_a_method_on_the_dominant_side_reads_no_target():
    batch, reads = tiny.batch(ROWS), tiny.packed(0, ROWS, 24, (0,))
    policy, reference = tiny.two_params(MODEL)
    batch = dataclasses.replace(batch, policy=reads, reference=reads)
    _, metrics = jax.eval_shape(
        functools.partial(objective, Task(MODEL, losses.Dpo(side="source"), ())), policy, reference, batch
    )
    assert "logps/chosen" in metrics


def test_rows_of_filling_count_in_no_language():
    """They have the number of the first language, since they must have one."""
    batch = dataclasses.replace(tiny.batch(ROWS, weight=[1, 1, 1, 0]), language_B=np.asarray([1, 1, 1, 0], np.int32))
    _, metrics = objective(Task(MODEL, losses.Mpo(), tiny.LANGUAGES), *tiny.two_params(MODEL), batch)
    assert [float(metrics[f"gap/{language}"].weight) for language in tiny.LANGUAGES] == [0, 3]
    assert float(metrics["gap/sw"].total) == 0
