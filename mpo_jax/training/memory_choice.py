"""What is kept for the backward pass where `remat` or `logits` is 'auto'? A rule of arithmetic: nothing is compiled for it."""

import dataclasses
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mpo_jax.data.pipeline import Pipeline
from mpo_jax.devices.sharding import shards
from mpo_jax.errors import InputError
from mpo_jax.models.decoder import Model
from mpo_jax.models.parameters import first_reached
from mpo_jax.scoring.token_logprob import kept_logits
from mpo_jax.telemetry.memory import kept_bytes
from mpo_jax.training.config import AUTO, TrainConfig
from mpo_jax.types import Packed, Params, Want

# The fastest first. 'none' is not among them: on a CPU it takes no less processor time than 'dots', since fresh pages of memory
# cost as much as the elementwise work that they save, and it keeps twice as much.
ORDER = ("dots", "attention", "full")
SHARE = 0.25  # of a CPU's memory


def chosen(config: TrainConfig, model: Model, packed: Packed, trainable: Params, mesh: Mesh) -> Model:
    """The model with the `remat` and `logits` of the config. Where they are 'auto': kept logits if they fit in `kept_gb`, since
    they save the most arithmetic a byte, and of `ORDER` the first that fits beside them. `packed`: a microbatch of the
    policy, by `largest_microbatch` that of a run.

    Errors: 'auto' without `kept_gb` where the memory cannot be asked for; kept logits larger than a CPU's memory.
    """
    all_logits = logits_of(packed, model, mesh) if Want.LOGP in config.loss.policy_reads.of_rows.anything else 0
    here = _cpu_memory(mesh)
    if config.logits == "keep" and here is not None and all_logits > here:
        raise InputError(
            f"logits='keep' would keep {all_logits / 1e9:.3g} GB of logits on each device, which has {here / 1e9:.3g} GB: write "
            "--config.logits=recompute, or more microbatches."
        )
    if AUTO not in (config.remat, config.logits):
        return dataclasses.replace(model, remat=config.remat, logits=config.logits)
    room = _room(config, here)
    logits = config.logits
    if logits == AUTO:
        logits = "keep" if 0 < all_logits <= room else "recompute"
    taken = all_logits if logits == "keep" else 0
    dtype, pieces, first = jnp.dtype(config.compute_dtype), shards(mesh, "batch"), first_reached(trainable, model.config.layers)

    def fits(remat: str) -> bool:
        return kept_bytes(dataclasses.replace(model, remat=remat), packed, dtype, first)[0] // pieces + taken <= room

    remat = config.remat
    if remat == AUTO:
        remat = next(filter(fits, ORDER), ORDER[-1])
    return dataclasses.replace(model, remat=remat, logits=logits)


def largest_microbatch(rows: Pipeline) -> Packed:
    """The policy's part of a microbatch of the longest shape of a run, as shapes."""
    micro, capacity = rows.batch_at(0).policy, rows.shapes.policy.capacities[-1]

    def widest(path: Any, x: Any) -> jax.ShapeDtypeStruct:
        length = capacity.answers if path[-1].name.endswith("_SA") else capacity.tokens
        return jax.ShapeDtypeStruct((x.shape[1], length), x.dtype)

    return jax.tree_util.tree_map_with_path(widest, micro)


def logits_of(packed: Packed, model: Model, mesh: Mesh) -> int:
    """The bytes of the logits of a microbatch that each device keeps with logits='keep'."""
    tokens = math.prod(packed.answer_at_SA.shape) // shards(mesh, "batch")
    return kept_logits(tokens, model.config.vocab_size // shards(mesh, "vocab"))


def _room(config: TrainConfig, here: int | None) -> int:
    if config.kept_gb is not None:
        return round(config.kept_gb * 1e9)
    if here is None:
        raise InputError(
            f"remat='{config.remat}' and logits='{config.logits}' need to know how much memory to use on these devices: write "
            "--config.kept_gb=GB, for each of them."
        )
    return round(SHARE * here)


def _cpu_memory(mesh: Mesh) -> int | None:
    """The bytes of this machine's memory for each of its devices, where these are CPUs."""
    if mesh.devices.flat[0].platform != "cpu":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
