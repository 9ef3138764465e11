"""How much of each device's memory do a run's settings use, and how much do they save?"""

import dataclasses

import jax

from mpo_jax.devices.sharding import shards
from mpo_jax.models.parameters import first_reached
from mpo_jax.telemetry.memory import Line, bytes_on, kept_bytes
from mpo_jax.training.assemble import Assembly
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.memory_choice import logits_of
from mpo_jax.training.optim import make_optimizer
from mpo_jax.training.step import HOST, abstract_state
from mpo_jax.types import Want


def budget(config: TrainConfig, run: Assembly) -> list[Line]:
    """For `memory.table`: what the settings use, and what they save compared with float32 AdamW of all parameters on the devices,
    a live float32 reference, and layers and logits of which all is kept."""
    model, mesh, state, optim = run.model, run.mesh, run.programs.state, config.optim
    adamw = make_optimizer(dataclasses.replace(optim, kind="adamw", moments_dtype="float32", offload=False), run.data.train.steps)
    plain = abstract_state(model.abstract(mesh), adamw, mesh)
    every = bytes_on(plain.trainable)
    setting = f"optim: kind={optim.kind}, moments_dtype={optim.moments_dtype}, offload={optim.offload}"
    setting += " (on the devices only during the update)" if optim.offload else ""
    lines = [
        Line("trainable parameters", "float32 masters", bytes_on(state.trainable)),
        Line("moments", setting, bytes_on(state.opt_state), bytes_on(plain.opt_state), bytes_on(state.opt_state, HOST)),
    ]
    if run.frozen.policy:
        what = f"lora.rank={config.lora.rank}" if config.lora.rank else f"frozen={config.frozen}"
        setting = f"{what}, compute_dtype={config.compute_dtype}"
        lines.append(Line("frozen parameters", setting, bytes_on(run.frozen.policy), every - bytes_on(state.trainable)))
    if config.loss.reference_reads.anything:
        setting = f"reference={config.reference}, reference_dtype={config.reference_dtype}"
        setting += " (shares the frozen parameters)" if run.frozen.shared else ""
        lines.append(Line("reference", setting, bytes_on(run.frozen.reference), every))
    micro = jax.tree.map(lambda x: x[0], run.data.train.batch_at(0).policy)
    pieces = shards(mesh, "batch")
    first = first_reached(state.trainable, model.config.layers)
    kept, all_kept = (
        kept_bytes(m, micro, config.compute_dtype, first) for m in (model, dataclasses.replace(model, remat="none"))
    )
    setting = f"remat={model.remat}, compute_dtype={config.compute_dtype}; for the first update"
    lines.append(Line("kept for backward pass", setting, kept[0] // pieces, all_kept[0] // pieces, kept[1] // pieces))
    if Want.LOGP in config.loss.policy_reads.of_rows.anything:
        logits = logits_of(micro, model, mesh)
        lines.append(Line("kept logits", f"logits={model.logits}", logits if model.keeps_logits else 0, logits))
    return lines
