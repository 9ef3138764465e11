"""How much memory does generation need on a TPU slice? The TPU compiler compiles its two programs, from shapes alone."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mpo_jax.devices.sharding import abstract_on_mesh, make_generation_mesh, shards
from mpo_jax.errors import InputError, check_choice
from mpo_jax.files import hub
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.engine import jitted
from mpo_jax.generation.programs import Cache, abstract_cache, abstract_logits
from mpo_jax.generation.sampling import Draw
from mpo_jax.generation.shapes import read_together, rounded, stacked
from mpo_jax.generation.weights import abstract_placed
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.registry import build
from mpo_jax.planning.bound import Bound, bound
from mpo_jax.planning.tpu_compiler import Memory, compile_for, devices, usable_bytes
from mpo_jax.telemetry.memory import bytes_on
from mpo_jax.types import DTYPES, Params

STOPS = 4  # ids that end an answer; a few bytes each
DRAWN = Decoding(temperature=1.0, top_p=0.9)  # which needs more memory than the most probable token does


@dataclasses.dataclass(frozen=True)
class Writing:
    """What is to be written: `batch_size` answers at once, of up to `max_new_tokens` tokens each, to prompts of `prompt_tokens`
    tokens, their chat format included. `model`: a folder or a hub name, of which only config.json is read. `dtype`: of weights,
    caches and computation. `tensor` and `width`: as in `make_generation_mesh`; None = to be chosen."""

    model: str
    batch_size: int = 64
    prompt_tokens: int = 512
    max_new_tokens: int = 512
    dtype: str = "bfloat16"
    tensor: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        check_choice("--dtype", self.dtype, DTYPES)
        for name in ("batch_size", "prompt_tokens", "max_new_tokens", "tensor", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')}={value} must be at least 1.")


@dataclasses.dataclass(frozen=True)
class GenerationLayout:
    """Generation laid out on a slice: shapes, dtypes and shardings, nothing compiled. All prompts and answers have their greatest
    length."""

    topology: str
    devices: Sequence[Any]
    mesh: Mesh
    model: Model
    rows: int
    prompt_slots: int
    new_slots: int
    dtype: str

    def of_rows(self, rows: int) -> "GenerationLayout":
        """With this many answers at once, or as many more as fill every copy of the weights alike."""
        copies = shards(self.mesh, "batch")
        return dataclasses.replace(self, rows=-(-rows // copies) * copies)

    @functools.cached_property
    def params(self) -> Params:
        return abstract_placed(self.model, self.mesh, jnp.dtype(self.dtype))

    @property
    def cache(self) -> Cache:
        return abstract_cache(self.model, self.rows, self.prompt_slots + self.new_slots, jnp.dtype(self.dtype), self.mesh)

    @property
    def kind(self) -> str:
        return self.devices[0].device_kind

    @property
    def loading(self) -> int:
        """Bytes per device while `weights.placed` moves the largest stack of layers, which is then there twice."""
        stacks = jax.tree.leaves(self.model.abstract(self.mesh, jnp.dtype(self.dtype))["layers"])
        return bytes_on(self.params) + max(map(bytes_on, stacks))

    @property
    def least(self) -> int:
        """A lower bound of each device's memory. Nothing is compiled for it."""
        return max(self.loading, bytes_on(self.params) + bytes_on(self.cache))


@dataclasses.dataclass(frozen=True)
class GenerationReport:
    """The memory that generation would need on one slice, in bytes per device."""

    topology: str
    mesh: dict[str, int]
    rows: int  # answers at once
    prompt_slots: int
    new_slots: int
    weights: int
    caches: int
    fits: bool  # everything
    programs: dict[str, Memory]  # the loading of the weights, which is arithmetic, prefill and decode, with all that they hold
    token: Bound | None = None  # of one token of each answer: a pass of decode's loop, whose number of passes no one knows
    largest: "GenerationReport | None" = None  # the largest batch tried that fits, where one was looked for
    refused: int | None = None  # the smallest batch tried that does not

    @property
    def peak(self) -> Memory:
        """The program that needs most."""
        return max(self.programs.values(), key=lambda memory: memory.peak)


def lay_out_generation(writing: Writing, topology: str, width: int, tensor: int) -> GenerationLayout:
    """Errors: those of `devices`; a mesh that does not fit the slice or the model's dimensions; a folder without config.json."""
    found = devices(topology)
    _, model, _ = build(hub.resolve(writing.model, weights=False))
    mesh = make_generation_mesh(width=width, tensor=tensor, devices=found)
    slots = rounded(writing.prompt_tokens), rounded(writing.max_new_tokens)
    layout = GenerationLayout(topology, found, mesh, model, 0, *slots, writing.dtype).of_rows(writing.batch_size)
    assert layout.least > 0, "and the mesh divides the model"
    return layout


def arguments(layout: GenerationLayout, name: str, decoding: Decoding) -> tuple[Any, ...]:
    """The shapes, dtypes and shardings of what the engine gives to its program of this name, prefill or decode."""
    copies = shards(layout.mesh, "batch")
    logits_BV = abstract_logits(layout.model, layout.rows, layout.mesh)
    if name == "prefill":
        rows = copies * read_together(layout.rows, layout.prompt_slots, copies)
        arrays = np.zeros((rows, layout.prompt_slots), np.int32), np.zeros(rows, np.int32)
        read = (*abstract_on_mesh(arrays, layout.mesh, ("batch",)), abstract_on_mesh(np.int32(0), layout.mesh, ()))
        return layout.params, layout.cache, logits_BV, *read
    arrays = {**stacked([], layout.rows, layout.prompt_slots, copies), "key_B2": np.zeros((layout.rows, 2), np.uint32)}
    batch = abstract_on_mesh(arrays, layout.mesh, ("batch",))
    draw = jax.tree.map(np.asarray, Draw.of(decoding))
    stop_E, draw = abstract_on_mesh((np.zeros(STOPS, np.int32), draw), layout.mesh, ())
    return layout.params, layout.cache, logits_BV, batch["length_B"], batch["limit_B"], batch["key_B2"], stop_E, draw


def lowered(layout: GenerationLayout, name: str, decoding: Decoding | None = None) -> jax.stages.Lowered:
    """The engine's program of this name; without a `decoding` it draws by temperature and top-p."""
    logits_BV = abstract_logits(layout.model, layout.rows, layout.mesh)
    prefill, decode = jitted(layout.model, layout.cache, logits_BV, layout.new_slots)
    program, args = {"prefill": prefill, "decode": decode}[name], arguments(layout, name, decoding or DRAWN)
    # A mesh of devices that do not exist here is for the compiler only: computing anything under it would fail.
    with jax.sharding.use_abstract_mesh(layout.mesh.abstract_mesh):
        return program.lower(*args)


def compiled_generation(layout: GenerationLayout) -> GenerationReport:
    """Compiles both programs, the prefill first; after something that does not fit, nothing."""
    usable = usable_bytes(layout.kind)
    programs = {"loading": Memory(usable is None or layout.loading <= usable, layout.loading, usable)}
    for name in ("prefill", "decode"):
        if all(memory.fits for memory in programs.values()):
            programs[name] = compile_for(lowered(layout, name), layout.kind)
    written = programs["decode"].cost if "decode" in programs else None
    return GenerationReport(
        layout.topology,
        dict(layout.mesh.shape),
        layout.rows,
        layout.prompt_slots,
        layout.new_slots,
        weights=bytes_on(layout.params),
        caches=bytes_on(layout.cache),
        fits=all(memory.fits for memory in programs.values()),
        programs=programs,
        token=bound(written, layout.kind, layout.topology) if written is not None else None,
    )
