"""What do a run's settings take of each device's memory, and what do they save?"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mpo_jax.data.dataset import Data
from mpo_jax.devices.sharding import shards
from mpo_jax.models.decoder import Model
from mpo_jax.telemetry.memory import Line, bytes_on, kept_bytes
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.optim import make_optimizer
from mpo_jax.training.step import HOST, abstract_state
from mpo_jax.types import TrainState


def budget(config: TrainConfig, model: Model, data: Data, abstract: TrainState, mesh: Mesh) -> list[Line]:
    """For `memory.table`: what the settings take and save, against float32 AdamW on the devices, a live float32 reference, and
    no rematerialisation. `abstract` is the state."""
    adamw = dataclasses.replace(config.optim, kind="adamw", moments_dtype="float32", offload=False)
    plain = abstract_state(abstract.params, make_optimizer(adamw, data.train.steps), mesh)
    masters, optim = bytes_on(abstract.params), config.optim
    setting = f"optim: kind={optim.kind}, moments_dtype={optim.moments_dtype}, offload={optim.offload}"
    setting += " (on the devices for the update alone)" if optim.offload else ""
    lines = [
        Line("parameters", "float32 masters", masters),
        Line("moments", setting, bytes_on(abstract.opt_state), bytes_on(plain.opt_state), bytes_on(abstract.opt_state, HOST)),
    ]
    if config.loss.reference_reads.anything:
        live = bytes_on(model.abstract(mesh, jnp.dtype(config.reference_dtype)))
        setting = f"reference={config.reference}, reference_dtype={config.reference_dtype}"
        lines.append(Line("reference", setting, live if config.reference == "live" else 0, masters))
    micro = jax.tree.map(lambda x: x[0], data.train.batch_at(0).policy)
    pieces = shards(mesh, "batch")
    kept, all_kept = (kept_bytes(m, micro, config.compute_dtype) for m in (model, dataclasses.replace(model, remat="none")))
    setting = f"remat={config.remat}, compute_dtype={config.compute_dtype}; of the first update"
    return [*lines, Line("kept for backward pass", setting, kept[0] // pieces, all_kept[0] // pieces, kept[1] // pieces)]
