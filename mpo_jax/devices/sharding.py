"""Which mesh axis does each logical axis go to? Only this file knows.

All other code names logical axes: a parameter declares `("layers", "embed", "heads", "head_dim")`, an activation is constrained
to `("batch", None, "heads", None)`, and the table below maps each of them to the mesh.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from mpo_jax.errors import InputError
from mpo_jax.types import Batch, Packed

MESH_AXES = ("data", "fsdp", "tensor")
# Where tokens are generated, weights stay where they are: what would be gathered for every token is summed over `width` instead.
GENERATION_AXES = ("data", "width", "tensor")

# Of the axes of a rule those hold that the mesh has.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp", "width"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "head_dim": (),
    "norm": (),
    "layers": (),
}

LogicalAxes = tuple[str | None, ...]


@dataclasses.dataclass
class MeshConfig:
    """The number of devices along each mesh axis: `data` replicates parameters, `fsdp` shards them, `tensor` splits heads,
    feed-forward layers and vocabulary. One of them may be -1: all remaining devices. Several TPU slices are joined along `data`,
    which must be a multiple of their number. With `auto` all three are chosen by `training.mesh_choice`."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1
    auto: bool = False

    def __post_init__(self) -> None:
        if self.auto and (self.data, self.fsdp, self.tensor) != (1, -1, 1):
            raise InputError(
                f"mesh.auto=True chooses the whole mesh, but data={self.data} fsdp={self.fsdp} tensor={self.tensor} was given "
                "too: leave one or the other out."
            )


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Errors: a product that is not the number of devices, two axes of -1, an axis below 1, slices that do not divide `data`."""
    assert not config.auto, "mesh_choice.chosen comes first"
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    given = f"mesh data={config.data} fsdp={config.fsdp} tensor={config.tensor}"
    if sizes.count(-1) > 1 or any(n < 1 and n != -1 for n in sizes):
        raise InputError(f"{given} is not possible: give each axis at least 1 device, or -1 (= all that remain) to one of them.")
    if -1 in sizes:
        sizes[sizes.index(-1)] = len(devices) // math.prod(n for n in sizes if n != -1)
    if math.prod(sizes) != len(devices):
        n = len(devices)
        raise InputError(f"{given} does not match the number of devices, {n}: choose axes whose product is {n}.")
    if sizes[0] % (n := slices(devices)):
        raise InputError(
            f"{given} would shard each parameter across the {n} TPU slices of this run, between which the network is slow: write "
            f"data={n} or a multiple of it, or auto=True."
        )
    return Mesh(arranged(devices, sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def slices(devices: Sequence[Any]) -> int:
    """The number of TPU slices, each with its own fast network, that these devices belong to; 1 for other devices."""
    return len({getattr(device, "slice_index", 0) for device in devices}) if devices[0].platform == "tpu" else 1


def arranged(devices: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
    """The devices as an array of these sizes, in an order that suits a slice's network; slices go along the first axis,
    `data`."""
    n, (data, *within) = slices(devices), sizes
    if n == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    one = (data // n, *within)
    return mesh_utils.create_hybrid_device_mesh(one, (n, 1, 1), devices, allow_split_physical_axes=True)


def make_generation_mesh(*, width: int, tensor: int, devices: Sequence[Any]) -> Mesh:
    """A mesh on which text is generated: `tensor` splits heads, feed-forward layers and vocabulary, `width` the other side of
    every matrix, and what remains of the devices holds copies, each with rows of its own.

    Errors: numbers whose product does not divide the number of devices."""
    if min(width, tensor) < 1 or len(devices) % (width * tensor):
        raise InputError(
            f"width={width} times tensor={tensor} devices hold one copy of the weights, but that does not divide the number of "
            f"devices, {len(devices)}: choose two numbers whose product does."
        )
    sizes = (len(devices) // (width * tensor), width, tensor)
    return Mesh(arranged(devices, sizes), GENERATION_AXES, axis_types=(AxisType.Auto,) * len(GENERATION_AXES))


def mesh_axes(mesh: Mesh | AbstractMesh, axis: str) -> tuple[str, ...]:
    """The mesh axes over which a logical axis is split. An axis that is not in `RULES` is a programming error."""
    return tuple(name for name in RULES[axis] if name in mesh.shape)


def spec(axes: LogicalAxes, mesh: Mesh | AbstractMesh | None = None) -> PartitionSpec:
    """Logical axes -> PartitionSpec for this mesh, or for the one set by `jax.set_mesh`."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    return PartitionSpec(*(None if axis is None else mesh_axes(mesh, axis) or None for axis in axes))


def shards(mesh: Mesh | AbstractMesh, axis: str) -> int:
    """The number of pieces into which a logical axis is split on this mesh."""
    return math.prod(mesh.shape[name] for name in mesh_axes(mesh, axis))


def named(mesh: Mesh | AbstractMesh, axes: LogicalAxes, shape: tuple[int, ...], name: str) -> NamedSharding:
    """The sharding of an array. Errors: a dimension that cannot be split evenly; it is never replicated silently."""
    assert len(axes) == len(shape), f"{name}: axes {axes} for shape {shape}"
    for axis, size in zip(axes, shape, strict=True):
        if axis is not None and size % shards(mesh, axis):
            raise InputError(
                f"{name} of shape {shape} cannot be sharded: its axis '{axis}' has {size} entries, but the rule '{axis}' -> "
                f"{' x '.join(mesh_axes(mesh, axis))} splits it into {shards(mesh, axis)} parts on the mesh {dict(mesh.shape)}; "
                f"choose a mesh whose {' x '.join(mesh_axes(mesh, axis))} divides {size}."
            )
    return NamedSharding(mesh, spec(axes, mesh))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains an intermediate to its sharding on the mesh set by `jax.set_mesh`; without a mesh it returns `x` unchanged."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    # JAX would pad an uneven dimension. Parameters and batches have been checked, so here it would be a bug.
    assert all(axis is None or size % shards(mesh, axis) == 0 for axis, size in zip(axes, x.shape, strict=True)), (axes, x.shape)
    return jax.lax.with_sharding_constraint(x, spec(axes))


def everywhere(x: jax.Array) -> jax.Array:
    """Replicates an intermediate on every device."""
    return constrain(x, *(None,) * x.ndim)


def host_to_global(tree: Any, mesh: Mesh, axes: LogicalAxes) -> Any:
    """Host arrays (numpy, the whole batch) -> global arrays, each sharded by the leading part of `axes` that its rank has."""

    def put(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    with jax.transfer_guard_host_to_device("allow"):  # the one place where a batch goes to the devices
        return jax.tree.map(put, tree, _places(tree, mesh, axes))


def like(x: Any, place: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array, to lie at `place`."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def abstract_on_mesh(tree: Any, mesh: Mesh, axes: LogicalAxes) -> Any:
    """The shapes, dtypes and shardings of what `host_to_global` makes, for a mesh of devices that are not here."""
    return jax.tree.map(like, tree, _places(tree, mesh, axes))


def _places(tree: Any, mesh: Mesh, axes: LogicalAxes) -> Any:
    def place(path: Any, x: np.ndarray) -> NamedSharding:
        return named(mesh, (*axes, *(None,) * x.ndim)[: x.ndim], x.shape, f"batch{jax.tree_util.keystr(path)}")

    return jax.tree_util.tree_map_with_path(place, tree)


def batch_to_mesh(batch: Batch, mesh: Mesh, put: Callable[[Any, Mesh, LogicalAxes], Any] = host_to_global) -> Batch:
    """A host batch with its microbatch axis -> the mesh: packed rows are sharded along the batch axis, per-row values
    replicated."""
    packed = isinstance(batch.reference, Packed)
    return dataclasses.replace(
        batch,
        policy=put(batch.policy, mesh, (None, "batch")),
        reference=put(batch.reference, mesh, (None, "batch") if packed else ()),
        weight_B=put(batch.weight_B, mesh, ()),
        language_B=put(batch.language_B, mesh, ()),
        prompt_B=put(batch.prompt_B, mesh, ()),
        mismatch=put(batch.mismatch, mesh, (None, "batch")),
        divergence=put(batch.divergence, mesh, (None, "batch")),
    )
