"""How much memory of a TPU slice does reading an edit's prompts need? One layer's program, compiled, and all their states."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from mpo_jax.data.packing import pack_prompts
from mpo_jax.devices.sharding import MeshConfig, abstract_on_mesh, make_mesh, shards
from mpo_jax.editing.mlp_inputs import through
from mpo_jax.errors import InputError, check_choice
from mpo_jax.files import hub
from mpo_jax.models.families.registry import build
from mpo_jax.planning.tpu_compiler import Memory, compile_for, devices
from mpo_jax.telemetry.memory import bytes_on
from mpo_jax.types import DTYPES


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is to be read: `prompts` of `prompt_tokens` tokens each, their chat format included, all languages and both kinds
    together. `model`: a folder or a hub name, of which only config.json is read. `tensor`: devices that split each layer."""

    model: str
    prompts: int = 4000
    prompt_tokens: int = 128
    dtype: str = "bfloat16"
    tensor: int = 1

    def __post_init__(self) -> None:
        check_choice("--dtype", self.dtype, DTYPES)
        for name in ("prompts", "prompt_tokens", "tensor"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')}={getattr(self, name)} must be at least 1.")


@dataclasses.dataclass(frozen=True)
class ReadingReport:
    """Bytes per device."""

    topology: str
    mesh: dict[str, int]
    prompts: int
    tokens: int  # positions of all packed rows
    layer: int  # one layer's weights
    states: int  # of all prompts' tokens, with where they are
    program: Memory  # one layer on one batch, its arguments included
    peak: int  # the program, and the other batches' states
    fits: bool


def plan_reading(reading: Reading, topology: str) -> ReadingReport:
    """Errors: those of `devices`; a mesh that does not fit the slice or the model's dimensions; a folder without config.json."""
    found = devices(topology)
    _, model, _ = build(hub.resolve(reading.model, weights=False))
    mesh, dtype = make_mesh(MeshConfig(tensor=reading.tensor), found), jnp.dtype(reading.dtype)
    # A few prompts say what a batch is, and how many fit into one.
    rows = shards(mesh, "batch")
    [(batch, _)], _ = pack_prompts([np.zeros(reading.prompt_tokens, np.int32)], rows=rows, pad_id=0, pooling="last_prompt")
    length = batch.tokens_ST.shape[1]
    slots = rows * (length // reading.prompt_tokens)
    packed = abstract_on_mesh(batch, mesh, ("batch",))
    x_STD = abstract_on_mesh(np.zeros((rows, length, model.config.hidden_size), dtype), mesh, ("batch",))
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype, sharding=jax.NamedSharding(mesh, jax.P(*x.sharding.spec[1:]))),
        model.abstract(mesh, dtype)["layers"],
    )
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        program = compile_for(through.lower(model, 0, slots, params, x_STD, packed), found[0].device_kind)
    batches, one = math.ceil(reading.prompts / slots), bytes_on((x_STD, packed))
    peak = program.peak + (batches - 1) * one
    return ReadingReport(
        topology,
        dict(mesh.shape),
        reading.prompts,
        tokens=batches * rows * length,
        layer=bytes_on(params),
        states=batches * one,
        program=program,
        peak=peak,
        fits=program.fits and (program.usable is None or peak <= program.usable),
    )
