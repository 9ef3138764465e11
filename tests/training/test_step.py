"""One device = eight devices on several meshes; one batch = its microbatches; nothing is compiled twice."""

import dataclasses

import gpus
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from jaxprs import equations

from mpo_jax.devices.sharding import batch_to_mesh
from mpo_jax.errors import InputError
from mpo_jax.losses import Mpo
from mpo_jax.losses.base import numbers_of
from mpo_jax.models.parameters import Frozen
from mpo_jax.scoring.objective import Task, objective
from mpo_jax.training.optim import OptimConfig, make_optimizer
from mpo_jax.training.step import TrainStep, abstract_state, init_state, jit_train_step, loss_and_grads, make_eval_step
from mpo_jax.training.step_arguments import on_mesh, step_numbers
from mpo_jax.types import TrainState

ROWS = 4
MODEL = tiny.model(tied=True, qkv_bias=True)
TASK = Task(MODEL, Mpo(), tiny.LANGUAGES)
# Adam divides a gradient by its own size: with the usual eps the rounding of a gradient near zero becomes a whole step. The
# larger eps keeps the comparison one of the computation. No clipping, so that the first moment shows the gradient.
NUMBERS = step_numbers(Mpo(), 1e-3)
OPTIMIZER = make_optimizer(OptimConfig(warmup=0.0, eps=1e-3, clip_norm=1e9), 10)


def run(on, batch, *, steps: int = 3):
    """(loss and metrics of each step, gradients of the first, parameters after the last, number of compilations)."""
    with jax.set_mesh(on):
        policy, reference = (tiny.place(MODEL, params, on) for params in tiny.two_params(MODEL))
        batch, numbers = batch_to_mesh(batch, on), on_mesh(NUMBERS, on)
        step = jit_train_step(TrainStep(TASK, OPTIMIZER, jnp.float32), abstract_state(policy, OPTIMIZER, on))
        state = init_state(policy, OPTIMIZER, on)
        history, moments = [], []
        with jax.transfer_guard("disallow"):
            for _ in range(steps):
                state, metrics = step(state, Frozen({}, reference), batch, numbers)
                moments.append(jax.device_get(state.opt_state[1].mu))
                history.append({k: float(m.total / m.weight) for k, m in jax.device_get(metrics).items()})
        grads = jax.tree.map(lambda mu: mu / 0.1, moments[0])
        return history, grads, jax.device_get(state.trainable), step._cache_size()


@pytest.fixture(scope="module")
def plain():
    return run(tiny.mesh(), tiny.micro(tiny.batch(ROWS), 1))


def assert_same(a, b):
    (history_a, grads_a, params_a, _), (history_b, grads_b, params_b, _) = a, b
    for x, y in zip(history_a, history_b, strict=True):
        tiny.assert_metrics(y, x)
    for tree_a, tree_b in ((grads_a, grads_b), (params_a, params_b)):
        for x, y in zip(jax.tree.leaves(tree_a), jax.tree.leaves(tree_b), strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(x).max())


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)], ids=str)
def test_any_mesh_computes_what_one_device_computes(plain, shape, capfd):
    on_mesh = run(tiny.mesh(*shape), tiny.micro(tiny.batch(ROWS), 1))
    assert_same(plain, on_mesh)
    assert on_mesh[3] == 1, "the step was compiled again"
    assert "nvoluntary full remat" not in capfd.readouterr().err


def test_microbatches_compute_what_one_batch_computes(plain):
    assert_same(plain, run(tiny.mesh(), tiny.micro(tiny.batch(ROWS), 4)))


def test_a_short_microbatch_counts_for_the_rows_it_has():
    """3 rows and one of filling: the filling's microbatch has fewer rows, and the mean is over the three."""
    weight = [1, 1, 1, 0]
    batch = tiny.batch(ROWS, weight=weight)
    policy, reference = tiny.two_params(MODEL)
    loss, _, grads = jax.jit(lambda *a: loss_and_grads(TASK, *a))(
        policy, Frozen({}, reference), tiny.micro(batch, 2), numbers_of(Mpo())
    )
    mean = jax.jit(jax.value_and_grad(lambda params: objective(TASK, params, reference, batch)[0].value))(policy)
    np.testing.assert_allclose(loss.value, mean[0], rtol=1e-5)
    for x, y in zip(jax.tree.leaves(grads), jax.tree.leaves(mean[1]), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(x).max())


def test_loss_falls(plain):
    history = plain[0]
    assert history[2]["loss"] < history[0]["loss"]


def test_metrics_of_languages_make_up_the_whole(plain):
    first = plain[0][0]
    halves = [first[f"gap/{language}"] for language in tiny.LANGUAGES]
    np.testing.assert_allclose(np.mean(halves), first["rewards/margins"], rtol=1e-5)
    assert {f"{m}/{lang}" for m in ("gap", "gap_error", "weight", "accuracy") for lang in tiny.LANGUAGES} <= first.keys()


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_evaluation_is_the_loss_without_the_update(plain, parts):
    policy, reference = tiny.two_params(MODEL)
    metrics, _ = make_eval_step(TASK, jnp.float32)(policy, Frozen({}, reference), tiny.micro(tiny.batch(ROWS), parts), NUMBERS)
    np.testing.assert_allclose(metrics["loss"].value, plain[0][0]["loss"], rtol=1e-5)


def test_nothing_but_rounding_separates_policy_and_reference_at_the_start():
    _, reference = tiny.two_params(MODEL)
    _, metrics, _ = jax.jit(lambda *a: loss_and_grads(TASK, *a))(
        reference, Frozen({}, reference), tiny.micro(tiny.batch(ROWS), 1), numbers_of(Mpo())
    )
    assert float(metrics["loss/retain"].value) < 1e-12


def test_the_state_is_donated_and_the_reference_is_not():
    on = tiny.mesh()
    policy, reference = (tiny.place(MODEL, params, on) for params in tiny.two_params(MODEL))
    with jax.set_mesh(on):
        state = init_state(policy, OPTIMIZER, on)
        step = jit_train_step(TrainStep(TASK, OPTIMIZER, jnp.float32), abstract_state(policy, OPTIMIZER, on))
        new, _ = step(state, Frozen({}, reference), batch_to_mesh(tiny.micro(tiny.batch(ROWS), 1), on), NUMBERS)
    assert all(x.is_deleted() for x in jax.tree.leaves(state.trainable))
    assert not any(x.is_deleted() for x in jax.tree.leaves(reference))
    assert isinstance(new, TrainState)
    assert int(new.step) == 1


def test_moments_lie_where_their_parameters_do():
    on = tiny.mesh(2, 2, 2)
    policy = tiny.place(MODEL, tiny.two_params(MODEL)[0], on)
    state = init_state(policy, OPTIMIZER, on)
    adam = state.opt_state[1]
    for moment in (adam.mu, adam.nu):
        for m, p in zip(jax.tree.leaves(moment), jax.tree.leaves(policy), strict=True):
            assert m.sharding == p.sharding
    assert jax.tree.structure(abstract_state(policy, OPTIMIZER, on)) == jax.tree.structure(state)


# Wide enough to be factored.
WIDE = tiny.model(hidden_size=128, ffn=256, heads=8, kv_heads=4)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "offload"), [("adafactor", False), ("adamw", True)])
def test_every_choice_of_moments_computes_the_same_on_a_mesh(kind, offload):
    """Three updates, factored or offloaded, on (2, 2, 2), and on one device that keeps its moments."""
    config = OptimConfig(kind=kind, warmup=0.0, eps=1e-3, clip_norm=1e9)
    after = []
    for on, offloaded in ((tiny.mesh(), False), (tiny.mesh(2, 2, 2), offload)):
        optimizer = make_optimizer(dataclasses.replace(config, offload=offloaded), 10)
        task = Task(WIDE, Mpo(), tiny.LANGUAGES)
        with jax.set_mesh(on):
            policy, reference = (tiny.place(WIDE, params, on) for params in tiny.two_params(WIDE))
            abstract = abstract_state(policy, optimizer, on)
            state = init_state(policy, optimizer, on)
            step = jit_train_step(TrainStep(task, optimizer, jnp.float32), abstract)
            for _ in range(3):
                state, _ = step(state, Frozen({}, reference), batch_to_mesh(tiny.micro(tiny.batch(ROWS), 1), on), NUMBERS)
                for x, planned in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(abstract.opt_state), strict=True):
                    assert x.sharding.is_equivalent_to(planned.sharding, x.ndim)
                    assert x.sharding.memory_kind == planned.sharding.memory_kind
        kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state.opt_state) if x.ndim}
        assert kinds == {"pinned_host" if offloaded else "device"}
        after.append(jax.device_get(state.trainable))
    for x, y in zip(*map(jax.tree.leaves, after), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-5 * np.abs(x).max())


def test_factors_are_cut_along_the_axes_that_they_have():
    on = tiny.mesh(2, 2, 2)
    optimizer = make_optimizer(OptimConfig(kind="adafactor"), 10)
    factored, _, _ = abstract_state(WIDE.abstract(on), optimizer, on).opt_state[1]
    gate = lambda tree: (tree["layers"]["mlp"]["gate"].shape, tree["layers"]["mlp"]["gate"].sharding.spec)  # noqa: E731
    assert gate(factored.v_row) == ((2, 128), jax.P(None, "fsdp"))
    assert gate(factored.v_col) == ((2, 256), jax.P(None, "tensor"))
    assert gate(factored.v) == ((2, 1), jax.P())  # stands for what is not there


def test_a_device_without_host_memory_is_named():
    class Device:
        device_kind = "Abacus"

        def addressable_memories(self):
            return [type("Memory", (), {"kind": "beads"})]

    class OfAbacus:
        devices = np.asarray([Device()])

    with pytest.raises(
        InputError, match=r"optim\.offload=True needs memory of the kind 'pinned_host', but Abacus has only beads"
    ):
        abstract_state({}, make_optimizer(OptimConfig(offload=True), 10), OfAbacus())


def test_the_gradients_norm_is_logged_and_not_the_updates(plain):
    history, grads, _, _ = plain
    np.testing.assert_allclose(history[0]["grad_norm"], optax.tree.norm(grads), rtol=1e-4)


AS_IN_A_RUN = {"xla_cpu_use_fusion_emitters": True}  # tests compile without


@pytest.mark.parametrize("sizes", [dict(vocab_size=4_096, hidden_size=512), dict(ffn=1_024, hidden_size=256, layers=8)])
def test_a_step_holds_each_gradient_once(sizes):
    """And no copy of a stack of layers: beside the weights, of which most are in the table or in the layers, there is little."""
    on, layers = tiny.mesh(), sizes.get("layers", 2)
    model = tiny.model(tied=True, layer_windows=(None,) * layers, **sizes)
    step = TrainStep(Task(model, Mpo(), tiny.LANGUAGES), OPTIMIZER, jnp.float32)
    with jax.set_mesh(on):
        policy, reference = (tiny.place(model, params, on) for params in tiny.two_params(model))
        weights = sum(x.nbytes for x in jax.tree.leaves(policy))
        jitted = jit_train_step(step, abstract_state(policy, OPTIMIZER, on))
        state, batch = init_state(policy, OPTIMIZER, on), batch_to_mesh(tiny.micro(tiny.batch(1), 1), on)
        memory = jitted.lower(state, Frozen({}, reference), batch, on_mesh(NUMBERS, on)).compile(AS_IN_A_RUN).memory_analysis()
    assert memory.temp_size_in_bytes < 1.65 * weights


def traced_for_gpus(mesh, remat):
    """A step with a live reference, on this mesh of GPUs that are not there."""
    task = dataclasses.replace(TASK, model=dataclasses.replace(MODEL, remat=remat))
    with jax.sharding.use_abstract_mesh(mesh if isinstance(mesh, jax.sharding.AbstractMesh) else mesh.abstract_mesh):
        params = MODEL.abstract(mesh)
        state = abstract_state(params, OPTIMIZER, mesh)
        batch = jax.eval_shape(lambda: jax.tree.map(lambda x: jnp.asarray(x)[None], tiny.batch(8)))
        step = jit_train_step(TrainStep(task, OPTIMIZER, jnp.bfloat16), state)
        traced = step.trace(state, Frozen({}, params), batch, NUMBERS)
        return traced, traced.lower(lowering_platforms=("cuda",))


@pytest.mark.parametrize(("remat", "kernels"), [("attention", 3), ("full", 4)])
def test_a_step_for_gpus_runs_attention_in_their_kernels(remat, kernels):
    """The forward kernel, and again where it is not kept, and the two of the backward pass; the step is lowered for CUDA."""
    traced, lowered = traced_for_gpus(tiny.GPUS, remat)
    assert [equation.primitive.name for equation in equations(traced.jaxpr.jaxpr)].count("pallas_call") == kernels
    assert "__gpu$xla.gpu.triton" in lowered.as_text()


@pytest.mark.slow
@pytest.mark.parametrize(("remat", "forward"), [("attention", 1), ("full", 2)])
def test_a_step_compiles_for_gpus(remat, forward):
    """The whole program of eight H100, by their own compiler: it does not bring back the forward kernel that remat took away."""
    _, lowered = traced_for_gpus(gpus.mesh("H100", (2, 2, 2)), remat)
    found = gpus.kernels(lowered.compile().as_text())
    assert found == {"attention_forward": forward, "attention_q_gradient": 1, "attention_kv_gradients": 1}
