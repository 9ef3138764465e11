"""Which mesh does `mesh.auto` choose? A rule of arithmetic: nothing is compiled for it."""

from collections.abc import Sequence
from typing import Any

from jax.sharding import AbstractMesh

from mpo_jax.devices.sharding import MESH_AXES, MeshConfig, slices
from mpo_jax.errors import InputError
from mpo_jax.models.decoder import Model
from mpo_jax.training.config import TrainConfig
from mpo_jax.types import ANSWERS, PAIR_KINDS

# With one sequence in each, packed rows are as long as the longest and half of their positions are empty (docs/performance.md).
SEQUENCES_PER_SHARD = 2


def chosen(config: TrainConfig, model: Model, devices: Sequence[Any]) -> MeshConfig:
    """The mesh of a config, or with `mesh.auto` the first of `meshes`. Errors: no mesh of these devices divides the model."""
    return meshes(config, model, devices)[0] if config.mesh.auto else config.mesh


def meshes(config: TrainConfig, model: Model, devices: Sequence[Any]) -> list[MeshConfig]:
    """The meshes of all devices that divide the model, the most promising first: those that give each shard of the batch at least
    `SEQUENCES_PER_SHARD` sequences of a microbatch, the smallest `tensor` first; then the others, the largest `tensor` first.
    Every slice holds all parameters. Errors: there is none."""
    n, reads = slices(devices), config.loss.policy_reads.of_rows
    each = len(devices) // n
    sequences = sum(len(ANSWERS) * config.batch_size // config.microbatches for side in PAIR_KINDS if reads.want(side))
    found = [MeshConfig(n, each // tensor, tensor) for tensor in range(1, each + 1) if each % tensor == 0]
    found = [mesh for mesh in found if _divides(mesh, model)]
    if not found:
        raise InputError(
            f"No mesh of {each} devices per slice divides the model's width of {model.config.hidden_size} and its "
            f"{model.config.kv_heads} key/value heads: use a slice whose number of devices is a power of two."
        )

    def lacking(mesh: MeshConfig) -> int:
        return max(0, SEQUENCES_PER_SHARD * mesh.data * mesh.fsdp - sequences)

    return sorted(found, key=lambda mesh: (lacking(mesh), mesh.tensor))


def _divides(mesh: MeshConfig, model: Model) -> bool:
    try:
        model.abstract(AbstractMesh((mesh.data, mesh.fsdp, mesh.tensor), MESH_AXES))
    except InputError:
        return False
    return True
