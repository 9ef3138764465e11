"""What would a TPU slice hold of a run's step? Laid out from shapes alone, then compiled for the slice by its own compiler."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mpo_jax import hub
from mpo_jax.config import TrainConfig
from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.errors import InputError
from mpo_jax.flops import update_work
from mpo_jax.memory import bytes_on
from mpo_jax.mesh_rule import chosen
from mpo_jax.metering import PEAK
from mpo_jax.models.decoder import Model
from mpo_jax.models.families import build
from mpo_jax.objective import make_objective
from mpo_jax.optim import make_optimizer
from mpo_jax.reference import stored_fields
from mpo_jax.sharding import abstract_on_mesh, batch_to_mesh, like, make_mesh, shards
from mpo_jax.step import TrainState, TrainStep, abstract_state, make_train_step, programs
from mpo_jax.tpu_compiler import Memory, compile_for, devices
from mpo_jax.types import SIDES, Batch, Pair, Params, Reads, Scores, SequenceScores, Want

UPDATES = 150  # of the learning rate's schedule, which takes no memory
LANGUAGES = ("ar", "bn", "jv", "ko", "sw", "zh")  # as many as the published data has


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one slice would hold, bytes a device, and the work of one update."""

    topology: str
    slices: int
    mesh: dict[str, int]
    rows: int  # packed rows of the policy in a microbatch
    tokens: int  # a packed row
    masters: int
    moments: int  # on the devices
    reference: int
    logits: int  # what is never there: float32 logits of the scored positions
    update_tokens: int  # real tokens of the rows' sides
    update_flops: float  # model FLOPs, by the convention of `flops.update_work`
    peak_flops: float | None  # of all chips together, a second, in bfloat16; None where `metering.PEAK` does not know them
    memory: Memory


@dataclasses.dataclass(frozen=True)
class Laid:
    """The step of a run, laid out on a slice: shapes, dtypes and places, nothing compiled."""

    config: TrainConfig
    topology: str
    slices: int
    devices: Sequence[Any]
    mesh: Mesh
    model: Model
    step: TrainStep
    state: TrainState
    ref_params: Params
    host: Batch  # numpy
    batch: Batch
    update_tokens: int


def lay_out(config: TrainConfig, topology: str, tokens: int | None = None, slices: int = 1) -> Laid:
    """The train step of `config` on this slice, or on `slices` of them, with the fullest batch whose sequences have `tokens`
    tokens each (by default the most that it allows).

    Errors: those of `devices`, a mesh that the slice or the model's dimensions do not divide, a folder without config.json.
    """
    slice_devices = devices(topology, slices)
    _, model, _ = build(hub.resolve(config.model, weights=False), remat=config.remat)
    mesh = make_mesh(chosen(config, model, slice_devices), slice_devices)
    # A mesh of devices that are not here is for the compiler alone: anything computed under it at once would fail.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        optimizer = make_optimizer(config.optim, UPDATES)
        live = config.reference == "live" and bool(config.loss.reference_reads.anything)
        length = config.data.max_length if tokens is None else tokens
        host, update_tokens = fullest_batch(config, model, length, shards(mesh, "batch"))
        step = make_train_step(make_objective(model, config.loss, LANGUAGES), optimizer, jnp.dtype(config.compute_dtype))
        return Laid(
            config,
            topology,
            slices,
            slice_devices,
            mesh,
            model,
            step,
            abstract_state(model.abstract(mesh), optimizer, mesh),
            model.abstract(mesh, jnp.dtype(config.reference_dtype)) if live else {},
            host,
            batch_to_mesh(host, mesh, abstract_on_mesh),
            update_tokens,
        )


def compiled(laid: Laid) -> Plan:
    """What the compiler says of it; minutes for a model of billions of weights."""
    kind = laid.devices[0].device_kind
    reference = bytes_on(laid.ref_params)
    with jax.sharding.use_abstract_mesh(laid.mesh.abstract_mesh):
        first, *rest = programs(laid.step, laid.state)
        if rest:
            args = (laid.state.params, laid.ref_params, laid.batch)
            loss, metrics, grads = jax.eval_shape(first, *args)
            grads = jax.tree.map(lambda x, p: like(x, p.sharding), grads, laid.state.params)
            update = compile_for(rest[0].lower(laid.state, loss, metrics, grads), kind)
            memory = fuller(compile_for(first.lower(*args), kind), beside(update, reference))
        else:
            memory = compile_for(first.lower(laid.state, laid.ref_params, laid.batch), kind)
    chips = len({(getattr(device, "slice_index", 0), *device.coords) for device in laid.devices})
    return Plan(
        laid.topology,
        laid.slices,
        dict(laid.mesh.shape),
        *laid.batch.policy.tokens_ST.shape[1:],
        masters=bytes_on(laid.state.params),
        moments=bytes_on(laid.state.opt_state),
        reference=reference,
        logits=4 * math.prod(laid.batch.policy.answer_at_SA.shape[1:]) * laid.model.config.vocab_size // len(laid.devices),
        update_tokens=laid.update_tokens,
        update_flops=update_work(laid.model.config, laid.host).flops,
        peak_flops=PEAK[kind] * chips if kind in PEAK else None,
        memory=memory,
    )


def fuller(one: Memory, other: Memory) -> Memory:
    """Of two programs that run in turns, the one that needs more, which decides whether both fit."""
    return max(one, other, key=lambda memory: memory.peak)


def beside(memory: Memory, kept: int) -> Memory:
    """A program that runs while each device holds `kept` bytes which are not its arguments."""
    peak = memory.peak + kept
    return dataclasses.replace(memory, peak=peak, fits=memory.fits and (memory.usable is None or peak <= memory.usable))


def least_bytes(laid: Laid) -> tuple[int, int]:
    """What each device holds at least while the backward pass runs: (whatever the batch, with this batch). To the state and a
    live reference come the compute copy of the weights and their gradients, and then the layers' inputs, which no `remat` does
    without. Nothing is compiled for it, and no compiled step has needed less."""
    c, dtype, packed = laid.config, jnp.dtype(laid.config.compute_dtype), laid.host.policy
    masters, copy = bytes_on(laid.state.params), bytes_on(laid.model.abstract(laid.mesh, dtype))
    gradients = copy + (masters if c.microbatches > 1 else 0)
    whatever = masters + bytes_on(laid.state.opt_state) + bytes_on(laid.ref_params) + gradients
    whatever += copy if dtype != jnp.float32 else 0
    positions = math.prod(packed.tokens_ST.shape[1:]) // shards(laid.mesh, "batch")
    return whatever, whatever + positions * laid.model.config.layers * laid.model.config.hidden_size * dtype.itemsize


def fullest_batch(config: TrainConfig, model: Model, tokens: int, pieces: int) -> tuple[Batch, int]:
    """A host batch whose sequences all have `tokens` tokens, nearly all of them answers, packed for this many shards; and the
    real tokens of its rows."""
    if tokens < 2:
        raise InputError(f"--tokens={tokens} is no length of a sequence: it has a prompt and an answer, so write 2 or more.")
    ids = lambda n: np.zeros(n, np.int32)  # noqa: E731
    pair = TokenPair(ids(1), ids(tokens - 1), ids(tokens - 1))
    live = config.reference == "live"
    rows = Pipeline(
        [Example("", LANGUAGES[0], pair, pair, pair, pair)] * config.batch_size,
        LANGUAGES,
        config.batch_size,
        0,
        config.loss.policy_reads,
        config.loss.reference_reads if live else Reads(),
        microbatches=config.microbatches,
        shards=pieces,
    )
    host = rows.batch_at(0)
    return (host if live else dataclasses.replace(host, reference=stored_scores(config, model))), rows.tokens_at(0)


def stored_scores(config: TrainConfig, model: Model) -> Scores:
    """What `reference.CachedReference` brings with a batch."""
    reads, rows = config.loss.reference_reads, (config.microbatches, config.batch_size // config.microbatches)

    def pair(want: Want) -> Pair:
        fields = stored_fields(want, model.config.hidden_size).items()
        arrays: dict[str, Any] = {name: np.zeros((*rows, *shape), np.float32) for name, shape in fields}
        scores = SequenceScores(**arrays)
        return Pair(scores, scores)

    return Scores(**{side: pair(want) for side in SIDES if (want := reads.want(side))})
