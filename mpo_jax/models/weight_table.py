"""Which Hugging Face tensor is which of our parameters? One line per tensor, read in both directions.

A `Weight` writes the Hugging Face tensor's dimensions in our logical axis names, with axes that share a dimension in parentheses:
`q_proj` of shape [N * H, D] is "(heads head_dim) embed". The model declares our own order of axes, so the table and the
declaration together give shapes, transposes, reshapes and slices.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from mpo_jax.devices.sharding import LogicalAxes
from mpo_jax.models.decoder import Model, dotted
from mpo_jax.types import Params

PIECE = 2**28  # bytes of a tensor that go to every device at once, where several hosts are to see it


@dataclasses.dataclass(frozen=True)
class Weight:
    """One tensor. `ours` is a dotted path in the tree of parameters; `hf` contains "{layer}" where our parameter is stacked."""

    ours: str
    hf: str
    layout: str

    @property
    def stacked(self) -> bool:
        return "{layer}" in self.hf

    @functools.cached_property
    def dims(self) -> tuple[tuple[str, ...], ...]:
        """The axes of each Hugging Face dimension: "(heads head_dim) embed" -> (("heads", "head_dim"), ("embed",))."""
        return tuple(tuple((shared or single).split()) for shared, single in re.findall(r"\(([^)]+)\)|(\S+)", self.layout))

    @property
    def flat(self) -> tuple[str, ...]:
        return sum(self.dims, ())


@dataclasses.dataclass(frozen=True)
class Place:
    """A `Weight` with our order of axes and their sizes, of one layer where it is stacked."""

    weight: Weight
    axes: LogicalAxes
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        assert sorted(self.weight.flat) == sorted(map(str, self.axes)), f"{self.weight} does not have the axes {self.axes}"

    @property
    def sizes(self) -> dict[str, int]:
        return dict(zip(map(str, self.axes), self.shape, strict=True))

    @property
    def hf_shape(self) -> tuple[int, ...]:
        return tuple(math.prod(self.sizes[axis] for axis in dim) for dim in self.weight.dims)

    def import_slice(self, tensor: Any, index: tuple[slice, ...]) -> np.ndarray:
        """The part `index` (step 1) of our parameter, reading no more of the Hugging Face tensor than covers it.

        `tensor` is anything whose slices are numpy arrays: an array, or a lazy slice of a safetensors file. Where several axes
        share a dimension, only the first one limits what is read; the others are cut afterwards.
        """
        wanted = {axis: slice(*s.indices(n)[:2]) for (axis, n), s in zip(self.sizes.items(), index, strict=True)}
        read, shape = [], []
        for major, *minor in self.weight.dims:
            inner = math.prod(self.sizes[axis] for axis in minor)
            read.append(slice(wanted[major].start * inner, wanted[major].stop * inner))
            shape += [wanted[major].stop - wanted[major].start, *(self.sizes[axis] for axis in minor)]
        majors = {dim[0] for dim in self.weight.dims}
        cut = tuple(slice(None) if axis in majors else wanted[axis] for axis in self.weight.flat)
        part = tensor[tuple(read)].reshape(shape)[cut]
        return part.transpose([self.weight.flat.index(str(axis)) for axis in self.axes])

    def import_tensor(self, tensor: np.ndarray) -> np.ndarray:
        """Hugging Face -> ours, the whole of it."""
        assert tensor.shape == self.hf_shape, f"{self.weight.hf}: {tensor.shape} is not {self.hf_shape}"
        return self.import_slice(tensor, (slice(None),) * len(self.axes))

    def export_tensor(self, array: np.ndarray) -> np.ndarray:
        """Ours -> Hugging Face, contiguous: safetensors writes the bytes of a transposed view in the wrong order."""
        assert array.shape == self.shape, f"{self.weight.ours}: {array.shape} is not {self.shape}"
        ordered = array.transpose([list(self.sizes).index(axis) for axis in self.weight.flat])
        return np.ascontiguousarray(ordered).reshape(self.hf_shape)


def leaf(tree: Params, path: str) -> Any:
    return functools.reduce(lambda node, key: node[key], path.split("."), tree)


def places(model: Model, table: tuple[Weight, ...]) -> tuple[Place, ...]:
    """The table with the model's axes and sizes; it must name every parameter once."""
    abstract, axes = model.abstract(), model.axes()
    leaves = jax.tree_util.tree_leaves_with_path(abstract)
    declared, listed = {dotted(path) for path, _ in leaves}, {w.ours for w in table}
    assert declared == listed and len(table) == len(leaves), f"weight table and parameters differ: {declared ^ listed}"
    first = lambda w: 1 if w.stacked else 0  # noqa: E731
    return tuple(Place(w, leaf(axes, w.ours)[first(w) :], leaf(abstract, w.ours).shape[first(w) :]) for w in table)


def in_order(model: Model, table: tuple[Weight, ...]) -> Iterator[tuple[str, Place, int | None]]:
    """(Hugging Face name, place, layer) of every tensor: what comes before the layers, layer by layer, what comes after."""
    all_places = places(model, table)
    stacked = [p for p in all_places if p.weight.stacked]
    begin = all_places.index(stacked[0])
    yield from ((p.weight.hf, p, None) for p in all_places[:begin])
    for layer in range(model.config.layers):
        yield from ((p.weight.hf.format(layer=layer), p, layer) for p in stacked)
    yield from ((p.weight.hf, p, None) for p in all_places[begin:] if not p.weight.stacked)


def export_tree(tree: Params, model: Model, table: tuple[Weight, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """(Hugging Face name, tensor) of parameters, or of anything shaped like them (gradients), in the tree's dtype.

    One tensor at a time is brought to the host. On several hosts every one of them must run the whole iteration.
    """
    for name, place, layer in in_order(model, table):
        yield name, hf_tensor(leaf(tree, place.weight.ours), place, layer)


def hf_tensor(array: Any, place: Place, layer: int | None) -> np.ndarray:
    """A parameter, or one layer of it, as its Hugging Face tensor on the host. On several hosts every one of them must call
    this."""
    if layer is not None:
        with jax.transfer_guard("allow"):  # the layer's number goes to the device
            array = _one_layer(array, np.int32(layer))
    return place.export_tensor(to_host(array))


@jax.jit
def _one_layer(stack: jax.Array, layer: np.int32) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(stack, layer, keepdims=False)


def to_host(array: Any) -> np.ndarray:
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return gathered(array)
    return jax.device_get(array)


def gathered(array: jax.Array) -> np.ndarray:
    """The whole of an array that is spread over several hosts, on each of them. All must call this; devices hold a `PIECE` at a
    time."""
    place = array.sharding
    assert isinstance(place, NamedSharding), "as the parameters of a run lie"
    cuts, rows = piece_of(array)
    whole = np.empty(array.shape, array.dtype)
    parts = whole.reshape(cuts, -1, *array.shape[1:])
    last = parts.shape[1] - rows  # where the last piece begins, so that all have the same size
    for start in (min(start, last) for start in range(0, parts.shape[1], rows)):
        with jax.transfer_guard("allow"):  # the number of the first row goes to the devices
            piece = jax.device_get(gather(array, np.int32(start), rows, place))
        parts[:, start : start + rows] = piece.reshape(cuts, rows, *array.shape[1:])
    return whole


def piece_of(array: Any) -> tuple[int, int]:
    """(parts into which the first axis is split, rows of each part that make up a `PIECE` of the array)."""
    part = array.sharding.shard_shape(array.shape)[0]
    cuts = array.shape[0] // part
    row = cuts * math.prod(array.shape[1:]) * array.dtype.itemsize
    return cuts, min(part, max(1, PIECE // row))


@functools.partial(jax.jit, static_argnames=("rows", "place"))
def gather(array: jax.Array, start: jax.Array, rows: int, place: NamedSharding) -> jax.Array:
    """The `rows` rows from `start` of each part of the first axis of an array sharded as `place`, on every device."""

    def everywhere(part: jax.Array, start: jax.Array) -> jax.Array:
        piece = jax.lax.dynamic_slice_in_dim(part, start, rows)
        for axis, names in enumerate(place.spec):
            piece = piece if names is None else jax.lax.all_gather(piece, names, axis=axis, tiled=True)
        return piece

    whole = jax.P()
    # Nothing is differentiated through this map, so there is nothing to check.
    return jax.shard_map(everywhere, mesh=place.mesh, in_specs=(place.spec, whole), out_specs=whole, check_vma=False)(
        array, start
    )
