"""How do the positions, the work and the memory of an update share out over more and more devices?

    python benchmarks/scaling.py --config=configs/llama31.py --config.model=FOLDER --config.data.path=FILE [--config.field=value]

FOLDER holds a model's config.json and its tokenizer, but no weights. Nothing is timed. Three tables:

1. The share of the positions that hold a real token, by the number of shards of the batch. "policy" is without the reference, as
   where it is cached; "scored" are the positions that reach the unembedding; "of 128" counts rows as if they were padded to whole
   blocks of 128, and "attention" as they are by the kernel of a TPU, which pads nothing else.
2. The same on the meshes that `mesh.auto` chooses for slices of these numbers of devices, and what a run says where it is low.
3. A small model with the same rows: model FLOPs of one device, empty positions included, relative to a single device, and the
   memory of a device by the compiler's count. What the devices send each other is not in it.
"""

import dataclasses
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mpo_jax.data.dataset import Batching, prepare
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.data.row_layout import round_up
from mpo_jax.devices.sharding import MeshConfig, abstract_on_mesh, batch_to_mesh, like, make_mesh
from mpo_jax.files import hub
from mpo_jax.models.attention import tpu_splash
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.registry import build
from mpo_jax.models.parameters import Frozen
from mpo_jax.telemetry.flops import backward_flops, counted, forward_flops
from mpo_jax.training.config import TrainConfig, parse
from mpo_jax.training.mesh_choice import advice, chosen
from mpo_jax.training.run_programs import run_programs
from mpo_jax.training.step_arguments import step_numbers
from mpo_jax.types import Batch, Packed, Reads

COMPILED = (1, 2, 4, 8)
SHARDS = (1, 2, 4, 8, 16, 32)
SLICES = (1, 4, 8, 16, 32, 64, 256)
SMALL = {"vocab_size": 4096, "hidden_size": 256, "layers": 4, "heads": 8, "kv_heads": 8, "head_dim": 32, "ffn": 1024}


class Filled(NamedTuple):
    """Shares of all positions that hold a real token, and of all scored positions that are used."""

    both: float
    policy: float
    scored: float
    of_128: float
    attention: float


def parts(batch: Batch) -> list[Packed]:
    found = (batch.policy, batch.reference, batch.mismatch, batch.divergence)
    return [packed for packed in found if isinstance(packed, Packed)]


def filled(pipeline: Pipeline) -> Filled:
    """Over all updates of a run."""
    alone = dataclasses.replace(pipeline, reference=Reads())
    both, policy = ([parts(run.batch_at(step)) for step in range(run.steps)] for run in (pipeline, alone))

    def share(batches: list[list[Packed]], length=lambda T: T) -> float:
        rows = [packed.kv_segment_ST for batch in batches for packed in batch]
        return sum(map(np.count_nonzero, rows)) / sum(x.size // x.shape[-1] * length(x.shape[-1]) for x in rows)

    slots = [packed.answer_slot_SA for batch in both for packed in batch]
    scored = sum(np.count_nonzero(x >= 0) for x in slots) / max(1, sum(x.size for x in slots))
    return Filled(share(both), share(policy), scored, share(both, lambda T: round_up(T, tpu_splash.LANES)), share(both, splash))


def splash(T: int) -> int:
    """The length to which `models.attention.tpu_splash` pads rows."""
    blocks = -(-T // tpu_splash.BLOCK)
    return round_up(T, blocks * tpu_splash.LANES)


def table(header: list[str], rows: list[list[str]]) -> None:
    print("\n" + "".join(f"| {name} " for name in header) + "|\n" + "|---" * len(header) + "|")
    for row in rows:
        print("".join(f"| {cell} " for cell in row) + "|", flush=True)


def axes(mesh: MeshConfig) -> str:
    return " ".join(f"{name}={n}" for name in ("data", "fsdp", "tensor") if (n := getattr(mesh, name)) > 1) or "one device"


def cost(config: TrainConfig, model: Model, pipeline: Pipeline, devices: int) -> list[str]:
    mesh_config = chosen(config, model, jax.devices()[:devices])
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    programs = run_programs(config, model, tuple(pipeline.languages), pipeline.steps, mesh)
    host = dataclasses.replace(pipeline, shards=mesh_config.data * mesh_config.fsdp).batch_at(0)
    flops = sum(work(model, packed, backward=packed is host.policy) for packed in parts(host)) / devices
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        number = like(np.float32(0), programs.state.step.sharding)
        numbers = jax.tree.map(lambda _: number, step_numbers(config.loss, config.optim.peak_lr))
        frozen = Frozen({}, model.abstract(mesh, jnp.dtype(config.reference_dtype)))
        lowered = programs.train_programs[0].lower(programs.state, frozen, batch_to_mesh(host, mesh, abstract_on_mesh), numbers)
    memory: Any = lowered.compile().memory_analysis()
    held, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    return [str(devices), axes(mesh_config), f"{flops / 1e9:.0f}", f"{held / 2**20:.1f}", f"{temporary / 2**20:.1f}"]


def work(model: Model, packed: Packed, backward: bool) -> float:
    """Model FLOPs, empty positions included, as devices compute them."""
    counts = counted(model.config, packed)._replace(positions=packed.tokens_ST.size, scored=packed.answer_slot_SA.size)
    return forward_flops(model.config, counts) + (backward_flops(model.config, counts, model.abstract()) if backward else 0)


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", COMPILED[-1])
    config = dataclasses.replace(parse(sys.argv[1:]), mesh=MeshConfig(auto=True))
    folder = hub.resolve(config.model, weights=False)
    family, model, _ = build(folder)
    batching = Batching(
        config.batch_size,
        config.loss.policy_reads,
        config.loss.reference_reads,
        config.epochs,
        config.microbatches,
        seed=config.seed,
    )
    pipeline = prepare(config.data, folder, family.authors_chat, batching).train
    found = {shards: filled(dataclasses.replace(pipeline, shards=shards)) for shards in SHARDS}
    print(f"{len(pipeline.examples)} rows, {config.batch_size} per update, microbatches={config.microbatches}")
    shares = ["policy and reference", "policy", "scored", "of 128", "attention"]
    table(["shards", *shares], [[str(n), *(f"{x:.3f}" for x in found[n])] for n in SHARDS])

    rows, said = [], []
    for devices in SLICES:
        there = jax.devices()[:1] * devices
        mesh = chosen(config, model, there)
        now = dataclasses.replace(pipeline, shards=mesh.data * mesh.fsdp)
        rows.append([str(devices), axes(mesh), *(f"{x:.3f}" for x in filled(now))])
        sizes = {"data": mesh.data, "fsdp": mesh.fsdp}
        said.append((devices, advice(config, model, there, sizes, now.shapes.filled)))
    table(["devices", "mesh.auto", *shares], rows)
    print("".join(f"\n{devices} devices: {words}" for devices, words in said if words))

    small = Model(dataclasses.replace(model.config, **SMALL, layer_windows=(None,) * SMALL["layers"]), remat=config.remat)
    costs = [cost(config, small, pipeline, devices) for devices in COMPILED]
    first = float(costs[0][2])
    header = ["devices", "mesh.auto", "GFLOP a device", "MiB held a device", "MiB temporary", "speed-up by work"]
    table(header, [[*row, f"{first / float(row[2]):.2f}"] for row in costs])


if __name__ == "__main__":
    main()
