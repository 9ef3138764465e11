"""What is the state of training, and what does one jitted step do to it?"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mpo_jax.devices.sharding import everywhere, like
from mpo_jax.errors import InputError
from mpo_jax.models.parameters import Frozen, joined
from mpo_jax.scoring.objective import Task, batch_totals, evaluation, objective
from mpo_jax.scoring.sequences import flat
from mpo_jax.training.optim import Optimizer
from mpo_jax.training.step_arguments import LOSS, PEAK_LR
from mpo_jax.types import Array, Batch, Mean, Metrics, Numbers, Params, Scores, TrainState, cast

HOST = "pinned_host"  # JAX's name of the host memory that devices copy from and to


def init_state(trainable: Params, optimizer: Optimizer, mesh: Mesh) -> TrainState:
    """A fresh state, laid out as in `abstract_state`. It takes over `trainable`; nothing is copied."""
    abstract = abstract_state(trainable, optimizer, mesh)
    opt_state = jax.jit(optimizer.transform.init, out_shardings=_shardings(abstract.opt_state))(trainable)
    return TrainState(jax.device_put(jnp.int32(0), abstract.step.sharding), trainable, opt_state)


def abstract_state(trainable: Params, optimizer: Optimizer, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state; `trainable` may be arrays or ShapeDtypeStructs with shardings. Moments are
    sharded like their parameters, and lie in host memory if the optimiser offloads them. Errors: devices without such memory."""
    if optimizer.offload:
        _check_host_memory(mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    opt_state = optax.tree.map_params(
        optimizer.transform,
        lambda moment, param: like(moment, _beside(moment, param, optimizer.offload)),
        jax.eval_shape(optimizer.transform.init, trainable),
        trainable,
        transform_non_params=lambda x: like(x, replicated),
    )
    trainable = jax.tree.map(lambda p: like(p, p.sharding), trainable)
    return TrainState(jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated), trainable, opt_state)


def _beside(moment: Any, param: Any, offload: bool) -> NamedSharding:
    """A moment is sharded like its parameter. A factor of a second moment lacks one of the parameter's axes and is sharded along
    the others; a placeholder for a missing moment is on every device."""
    place = param.sharding
    if moment.shape != param.shape:
        cuts = (*place.spec, *(None,) * param.ndim)[: param.ndim]
        without = lambda x, axis: (*x[:axis], *x[axis + 1 :])  # noqa: E731
        lacks = [axis for axis in range(param.ndim) if moment.shape == without(param.shape, axis)]
        place = NamedSharding(place.mesh, PartitionSpec(*without(cuts, lacks[0])) if lacks else PartitionSpec())
    return place.with_memory_kind(HOST) if offload else place


def _check_host_memory(mesh: Mesh) -> None:
    device = mesh.devices.flat[0]
    if HOST not in (kinds := [memory.kind for memory in device.addressable_memories()]):
        raise InputError(
            f"optim.offload=True needs memory of the kind '{HOST}', but {device.device_kind} has only {', '.join(kinds)}: leave "
            "optim.offload out."
        )


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.sharding, tree)


def loss_and_grads(task: Task, trainable: Params, frozen: Frozen, batch: Batch, numbers: Numbers) -> tuple[Mean, Metrics, Params]:
    """Loss, metrics and float32 gradients of the mean loss over all rows of all microbatches; `numbers` are the method's.

    A microbatch's part of that mean is differentiated, so a short or uneven one counts for the rows it has. Were the gradients
    divided at the end instead, XLA would keep another array of each.
    """
    totals = batch_totals(task, joined(trainable, frozen.policy), frozen.reference_params, batch)
    rows = jnp.sum(batch.weight_B)

    def part(trainable: Params, micro: Batch) -> tuple[Array, tuple[Mean, Metrics]]:
        loss, metrics = objective(task, joined(trainable, frozen.policy), frozen.reference_params, micro, totals, numbers)
        return loss.total / rows, (loss, metrics)

    def one(micro: Batch) -> tuple[Mean, Metrics, Params]:
        (_, (loss, metrics)), grads = jax.value_and_grad(part, has_aux=True)(trainable, micro)
        return loss, metrics, cast(grads, jnp.float32)

    return over_microbatches(one, batch)


def over_microbatches(one: Callable[[Batch], Any], batch: Batch) -> Any:
    """The sum of `one` over the microbatches, one after the other."""
    first = jax.tree.map(lambda x: x[0], batch)
    if batch.weight_B.shape[0] == 1:
        return one(first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, first))
    return jax.lax.scan(lambda sums, micro: (jax.tree.map(jnp.add, sums, one(micro)), None), zeros, batch)[0]


@dataclasses.dataclass(frozen=True, eq=False)  # a hash of its identity, so that it can be compiled
class TrainStep:
    """(state, frozen, batch, numbers) -> (state, metrics), for `jit_train_step`: the gradient, then the update. The numbers are
    those of `step_arguments.step_numbers`."""

    task: Task
    optimizer: Optimizer
    compute_dtype: Any

    def __call__(self, state: TrainState, frozen: Frozen, batch: Batch, numbers: Numbers) -> tuple[TrainState, Metrics]:
        return self.update(state, numbers, *self.gradient(state.trainable, frozen, batch, numbers))

    def gradient(self, trainable: Params, frozen: Frozen, batch: Batch, numbers: Numbers) -> tuple[Mean, Metrics, Params]:
        # Cast outside the differentiated function: gradients then take the compute dtype's memory, and nothing is lost,
        # since the cotangents of bfloat16 products are bfloat16 anyway.
        return loss_and_grads(self.task, cast(trainable, self.compute_dtype), frozen, batch, numbers[LOSS])

    def update(
        self, state: TrainState, numbers: Numbers, loss: Mean, metrics: Metrics, grads: Params
    ) -> tuple[TrainState, Metrics]:
        optimizer, trainable = self.optimizer, state.trainable
        with jax.named_scope("update"):
            # Moments that wait on the host come to the devices here, and go back where `out_shardings` say.
            on_device = jax.memory.Space.Device
            moments = jax.device_put(state.opt_state, on_device) if optimizer.offload else state.opt_state
            trainable, opt_state, learning_rate = optimizer.update(trainable, grads, moments, state.step, numbers[PEAK_LR])
        one = jnp.float32(1)
        metrics |= {
            "loss": loss,
            "grad_norm": Mean(optax.tree.norm(grads), one),
            "learning_rate": Mean(learning_rate, one),
        }
        return TrainState(state.step + 1, trainable, opt_state), metrics


def jit_train_step(train_step: TrainStep, abstract: TrainState) -> Callable[..., tuple[TrainState, Metrics]]:
    """The compiled step: the state is donated and keeps its sharding; what is frozen is never donated."""
    first, *rest = step_programs(train_step, abstract)
    if not rest:
        return first
    (update,) = rest

    def offloaded(state: TrainState, frozen: Frozen, batch: Batch, numbers: Numbers) -> tuple[TrainState, Metrics]:
        return update(state, numbers, *first(state.trainable, frozen, batch, numbers))

    return offloaded


def step_programs(train_step: TrainStep, abstract: TrainState) -> list[jax.stages.Wrapped]:
    """The step as one program; or as two, gradient and update, where moments are offloaded to the host. In a single program the
    TPU compiler would fetch the moments at the beginning, even behind an optimisation barrier, and need more memory than without
    offloading."""
    state_and_metrics = (_shardings(abstract), None)
    if not train_step.optimizer.offload:
        return [jax.jit(train_step, donate_argnums=0, out_shardings=state_and_metrics)]
    gradient = jax.jit(train_step.gradient, out_shardings=(None, None, _shardings(abstract.trainable)))
    return [gradient, jax.jit(train_step.update, donate_argnums=(0, 4), out_shardings=state_and_metrics)]


def make_eval_step(task: Task, compute_dtype: Any) -> jax.stages.Wrapped:
    """(trainable, frozen, batch, numbers) -> (metrics, scores of both sides' answers). The batch is packed for
    `data.dataset.Batching.evaluating`; metrics are sums and weights that add up over batches, scores those of its rows, in
    order."""

    def eval_step(trainable: Params, frozen: Frozen, batch: Batch, numbers: Numbers) -> tuple[Metrics, Scores]:
        params = joined(cast(trainable, compute_dtype), frozen.policy)
        totals = batch_totals(task, params, frozen.reference_params, batch)

        def one(micro: Batch) -> tuple[Mean, Metrics, Scores]:
            return evaluation(task, params, frozen.reference_params, micro, totals, numbers[LOSS])

        loss, metrics, scores = jax.lax.map(one, batch)
        loss, metrics = jax.tree.map(lambda x: x.sum(axis=0), (loss, metrics))
        return metrics | {"loss": loss}, jax.tree.map(everywhere, flat(scores))

    return jax.jit(eval_step)
