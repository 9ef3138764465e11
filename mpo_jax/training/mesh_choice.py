"""Which mesh does `mesh.auto` choose, and what fills the batches of another one? Rules of arithmetic: nothing is compiled."""

from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import AbstractMesh

from mpo_jax.devices.sharding import MESH_AXES, MeshConfig, slices
from mpo_jax.errors import InputError
from mpo_jax.models.decoder import Model
from mpo_jax.training.config import TrainConfig
from mpo_jax.types import ANSWERS, PAIR_KINDS

# With one sequence in each, packed rows are as long as the longest and half of their positions are empty; with two, a quarter;
# with four, less than a tenth (docs/performance.md).
SEQUENCES_PER_SHARD = 4
FULL = 0.9  # of the positions: with less, a run says what would fill them


def chosen(config: TrainConfig, model: Model, devices: Sequence[Any]) -> MeshConfig:
    """The mesh of a config, or with `mesh.auto` the first of `meshes`. Errors: no mesh of these devices divides the model."""
    return meshes(config, model, devices)[0] if config.mesh.auto else config.mesh


def meshes(config: TrainConfig, model: Model, devices: Sequence[Any]) -> list[MeshConfig]:
    """The meshes of all devices that divide the model, the most promising first: those that give each shard of the batch at least
    `SEQUENCES_PER_SHARD` sequences of a microbatch, the smallest `tensor` first; then the others, the largest `tensor` first.
    Every slice holds all parameters. Errors: there is none."""
    found = _found(config, model, devices)
    if not found:
        raise InputError(
            f"No mesh of {len(devices) // slices(devices)} devices per slice divides the model's width of "
            f"{model.config.hidden_size} and its {model.config.kv_heads} key/value heads: use a slice whose number of devices is "
            "a power of two."
        )
    return found


def advice(config: TrainConfig, model: Model, devices: Sequence[Any], mesh: Mapping[str, int], filled: float) -> str | None:
    """What would fill the batches of a run on this mesh (axis -> devices), where sequences take only the share `filled` of the
    positions that the devices compute; None where that is at least `FULL`."""
    if filled >= FULL:
        return None
    sequences, pieces, ways = _sequences(config), mesh["data"] * mesh["fsdp"], []
    for best in _found(config, model, devices)[:1]:
        if best.data * best.fsdp < pieces and sequences < SEQUENCES_PER_SHARD * pieces:
            axes = " ".join(f"--config.mesh.{name}={getattr(best, name)}" for name in MESH_AXES)
            ways.append(f"write {axes}, which --config.mesh.auto=True would choose")
    if config.microbatches > 1:
        ways.append(f"write fewer --config.microbatches than {config.microbatches}, if there is memory for it")
    ways.append(f"raise --config.batch_size above {config.batch_size}, which changes what is learnt")
    return (
        f"{1 - filled:.0%} of the positions that the devices compute are empty, since the sequences of a microbatch, "
        f"{sequences / pieces:.3g} for each shard, differ in length. To fill them, {', or '.join(ways)}."
    )


def _found(config: TrainConfig, model: Model, devices: Sequence[Any]) -> list[MeshConfig]:
    n, sequences = slices(devices), _sequences(config)
    each = len(devices) // n
    found = [MeshConfig(n, each // tensor, tensor) for tensor in range(1, each + 1) if each % tensor == 0]

    def lacking(mesh: MeshConfig) -> int:
        return max(0, SEQUENCES_PER_SHARD * mesh.data * mesh.fsdp - sequences)

    return sorted((mesh for mesh in found if _divides(mesh, model)), key=lambda mesh: (lacking(mesh), mesh.tensor))


def _sequences(config: TrainConfig) -> int:
    """How many sequences the policy reads in a microbatch."""
    reads, rows = config.loss.policy_reads.of_rows, config.batch_size // config.microbatches
    return sum(len(ANSWERS) * rows for kind in PAIR_KINDS if reads.want(kind))


def _divides(mesh: MeshConfig, model: Model) -> bool:
    try:
        model.abstract(AbstractMesh((mesh.data, mesh.fsdp, mesh.tensor), MESH_AXES))
    except InputError:
        return False
    return True
