"""How much memory would a run's programs need on a TPU slice, and how long must an update take? The TPU compiler compiles each of
them."""

import dataclasses
import math
import time

import jax
import jax.numpy as jnp

from mpo_jax.devices.sharding import shards
from mpo_jax.models.parameters import first_reached
from mpo_jax.planning.bound import Bound, bound
from mpo_jax.planning.cost import Cost
from mpo_jax.planning.peaks import PEAKS
from mpo_jax.planning.programs import RunLayout, evaluated, measured, programs, scored
from mpo_jax.planning.tpu_compiler import Memory, compile_for
from mpo_jax.telemetry.flops import attention_flops, update_work
from mpo_jax.telemetry.memory import bytes_on
from mpo_jax.telemetry.throughput import PEAK


@dataclasses.dataclass(frozen=True)
class SliceReport:
    """The memory that one slice would need, in bytes per device, and the work of one update."""

    topology: str
    slices: int
    mesh: dict[str, int]
    rows: int  # packed rows of the policy in a microbatch
    tokens: int  # a packed row
    masters: int
    moments: int  # on the devices
    frozen: int  # the policy's parameters that are not trained
    reference: int
    shared: bool  # whether the reference is the policy's frozen parameters, and takes nothing itself
    logits: int  # what is never there: float32 logits of the scored positions
    update_tokens: int  # real tokens of the rows' sides
    update_flops: float  # model FLOPs, by the convention of `flops.update_work`
    peak_flops: float | None  # per second, of all chips together, in bfloat16; None where `throughput.PEAK` does not know them
    fits: bool  # every program
    programs: dict[str, Memory]  # the step's first, each with what is held beside it; the first that does not fit is the last
    bound: Bound | None = None  # of one update; None where it does not fit, or the chip's peaks are not known
    chips: int = 0
    reading_seconds: float | None = None  # in which the devices read all weights once, at their memory's peak
    forward_flops: dict[str, float] = dataclasses.field(default_factory=dict)  # model FLOPs of a batch that is not learnt from
    compile_seconds: float = 0.0  # of processor time, that all this took here
    kept: str = ""  # for the backward pass, as settings


def compiled(layout: RunLayout) -> SliceReport:
    """Compiles the programs of `layout`, which takes minutes for a model with billions of weights."""
    kind, begun = layout.devices[0].device_kind, time.process_time()
    found: dict[str, Memory] = {}
    with jax.sharding.use_abstract_mesh(layout.mesh.abstract_mesh):
        for program in programs(layout):
            memory = beside(compile_for(program.lowered, kind), program.held)
            found[program.name] = fuller(found[program.name], memory) if program.name in found else memory
            if not memory.fits:
                break
    chips = len({(getattr(device, "slice_index", 0), *device.coords) for device in layout.devices})
    policy, model = layout.host.policy, layout.model.config
    return SliceReport(
        layout.topology,
        layout.slices,
        dict(layout.mesh.shape),
        *policy.tokens_ST.shape[1:],
        masters=bytes_on(layout.state.trainable),
        moments=bytes_on(layout.state.opt_state),
        frozen=bytes_on(layout.frozen.policy),
        reference=bytes_on(layout.frozen.reference),
        shared=layout.frozen.shared,
        logits=4 * math.prod(policy.answer_at_SA.shape[1:]) * model.vocab_size // len(layout.devices),
        update_tokens=layout.train.tokens_at(0),
        update_flops=update_work(model, layout.host, layout.state.trainable).flops,
        peak_flops=PEAK[kind] * chips if kind in PEAK else None,
        fits=all(memory.fits for memory in found.values()),
        programs=found,
        bound=_bound(layout, found),
        chips=chips,
        reading_seconds=_weights(layout) / len(layout.devices) / PEAKS[kind].memory if kind in PEAKS else None,
        forward_flops={
            name: sum(
                update_work(model, pipeline.batch_at(0), layout.state.trainable, learns=False).flops for pipeline in pipelines
            )
            for name, pipelines in {
                "held out": [evaluated(layout)],
                "gaps": [measured(layout)],
                "scoring": list(scored(layout).values()),
            }.items()
        },
        compile_seconds=time.process_time() - begun,
        kept=f"remat={layout.config.remat} logits={layout.config.logits}",
    )


def _weights(layout: RunLayout) -> int:
    """Bytes of all parameters in the dtype of the computation."""
    return sum(x.size for x in jax.tree.leaves(layout.model.abstract())) * jnp.dtype(layout.config.compute_dtype).itemsize


def _bound(layout: RunLayout, found: dict[str, Memory]) -> Bound | None:
    """That of an update. Attention's kernels are not in the compiled program's cost: they are counted from the batch."""
    step = found["step"]
    if step.cost is None or not step.fits:
        return None
    kernels = attention_flops(layout.model.config, layout.host, layout.state.trainable) if step.kernels else 0.0
    done = step.cost + Cost(flops=kernels / len(layout.devices))
    return bound(done, layout.devices[0].device_kind, layout.topology)


def fuller(one: Memory, other: Memory) -> Memory:
    """The one of two programs that needs more memory, with what both do: they run one after the other, so it decides whether both
    fit."""
    done = one.cost + other.cost if one.cost and other.cost else None
    return dataclasses.replace(max(one, other, key=lambda memory: memory.peak), cost=done)


def beside(memory: Memory, kept: int) -> Memory:
    """The memory of a program that runs while each device holds `kept` further bytes."""
    peak = memory.peak + kept
    return dataclasses.replace(memory, peak=peak, fits=memory.fits and (memory.usable is None or peak <= memory.usable))


def least_bytes(layout: RunLayout) -> tuple[int, int]:
    """A lower bound of each device's memory during the backward pass: (for any batch, for this batch). It counts the state, a
    live reference, the compute copy of the weights and their gradients, and for this batch the layers' inputs, which every
    `remat` policy keeps. Nothing is compiled for it, and no compiled step has needed less."""
    config, dtype, packed = layout.config, jnp.dtype(layout.config.compute_dtype), layout.host.policy
    masters, copy = bytes_on(layout.state.trainable), bytes_on(layout.state.trainable) * dtype.itemsize // 4
    gradients = copy + (masters if config.microbatches > 1 else 0)
    whatever = masters + bytes_on(layout.state.opt_state) + bytes_on(layout.frozen) + gradients
    whatever += copy if dtype != jnp.float32 else 0
    positions = math.prod(packed.tokens_ST.shape[1:]) // shards(layout.mesh, "batch")
    c = layout.model.config
    kept = c.layers - first_reached(layout.state.trainable, c.layers)
    return whatever, whatever + positions * kept * c.hidden_size * dtype.itemsize
