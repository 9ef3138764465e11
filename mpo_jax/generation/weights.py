"""In which form are weights read fastest, token by token? Layer by layer, as matrices [out, in], on the mesh of generation.

A loop over tokens reads every weight once a token. A layer's own arrays are read where they are; of a stack of layers, some
compilers would copy each layer's slice first. A matrix of two dimensions needs no change of layout before a product, and with its
outputs first it is the left operand of `layers.product`.
"""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from mpo_jax.devices.sharding import named
from mpo_jax.models.decoder import Model, dotted
from mpo_jax.models.layers import inputs
from mpo_jax.types import Array, Params


@dataclasses.dataclass(frozen=True)
class Matrix:
    """How one parameter of a layer is stored, [out, in] if it is a projection. `axes` and `shape` are those that the model
    declares; `order` is that of its axes in memory."""

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The declared axes that each stored one is made of."""
        axes = tuple(range(len(self.axes)))
        if len(axes) == 1 or "embed" not in self.axes:
            return tuple((i,) for i in axes)
        n = inputs(self.axes)
        return axes[n:], axes[:n]

    @property
    def order(self) -> tuple[int, ...]:
        return sum(self.groups, ())

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return tuple(math.prod(self.shape[i] for i in group) for group in self.groups)

    def sharding(self, mesh: Mesh) -> NamedSharding:
        """Errors: an axis that its mesh axis does not divide."""
        named(mesh, self.axes, self.shape, self.name)
        return named(mesh, tuple(self.axes[group[0]] for group in self.groups), self.stored_shape, self.name)

    def store(self, x: Array) -> Array:
        return x.transpose(self.order).reshape(self.stored_shape)

    def view(self, stored: Array) -> Array:
        """The declared form; within a program this moves nothing."""
        ordered = stored.reshape([self.shape[i] for i in self.order])
        return ordered.transpose([self.order.index(i) for i in range(len(self.axes))])


def matrices(model: Model) -> Params:
    """A `Matrix` for each parameter of one layer."""

    def one(path: Any, stack: jax.ShapeDtypeStruct, axes: tuple[str, ...]) -> Matrix:
        return Matrix(f"layers.{dotted(path)}", axes[1:], stack.shape[1:])

    return jax.tree_util.tree_map_with_path(one, model.abstract()["layers"], model.axes()["layers"])


def placed(model: Model, params: Params, mesh: Mesh, dtype: Any, *, consume: bool) -> Params:
    """Parameters as the model declares them, on any mesh of the same devices -> the form above, in `dtype`: `params["layers"]` is
    a tuple with one tree a layer.

    With `consume` each stack is deleted when its layers are there, so that memory never holds more than one stack twice.
    """

    def move(path: Any, x: Array, axes: tuple[str, ...]) -> Array:
        return jax.device_put(x.astype(dtype), named(mesh, axes, x.shape, dotted(path)))

    def unstack(matrix: Matrix, x: Array, axes: tuple[str, ...]) -> list[Array]:
        stack = move((), x, axes)
        layers = jax.jit(lambda stack: [matrix.store(layer) for layer in stack], out_shardings=matrix.sharding(mesh))(stack)
        if consume:
            jax.block_until_ready(layers)
            stack.delete()
        return layers

    axes = dict(model.axes())
    by_parameter = jax.tree.map(unstack, matrices(model), params["layers"], axes.pop("layers"))
    is_list = lambda x: isinstance(x, list)  # noqa: E731
    layers = tuple(jax.tree.map(lambda parts, i=i: parts[i], by_parameter, is_leaf=is_list) for i in range(model.config.layers))
    others = {name: params[name] for name in axes}
    return {**jax.tree_util.tree_map_with_path(move, others, axes), "layers": layers}


def abstract_placed(model: Model, mesh: Mesh, dtype: Any) -> Params:
    """The shapes, dtypes and shardings of what `placed` makes."""

    def one(matrix: Matrix) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(matrix.stored_shape, dtype, sharding=matrix.sharding(mesh))

    layer = jax.tree.map(one, matrices(model))
    return {**model.abstract(mesh, dtype), "layers": (layer,) * model.config.layers}


def as_declared(model: Model, params: Params) -> Params:
    """The same weights with the axes that the model declares."""
    known = matrices(model)
    return {
        **params,
        "layers": tuple(jax.tree.map(lambda matrix, x: matrix.view(x), known, layer) for layer in params["layers"]),
    }
