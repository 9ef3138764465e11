"""In which form are weights read fastest, token by token? Layer by layer, output axes first, on the mesh of generation.

A loop over tokens reads every weight once a token. A layer's own arrays are read where they are; of a stack of layers, some
compilers would copy each layer's slice first. With its output axes first a weight is the left operand of `layers.product`.
"""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from mpo_jax.devices.sharding import LogicalAxes, named
from mpo_jax.models.decoder import Model, dotted
from mpo_jax.types import Array, Params


def outputs_first(axes: LogicalAxes) -> LogicalAxes:
    """The order of axes in memory. Every matrix of a layer has the model's width on one side, which here changes sides."""
    if len(axes) > 1 and axes[0] == "embed":
        return (*axes[1:], "embed")
    if len(axes) > 1 and axes[-1] == "embed":
        return ("embed", *axes[:-1])
    return axes


def layer_axes(model: Model) -> Params:
    """The axes of each parameter of one layer, in memory."""
    return jax.tree.map(lambda axes: outputs_first(axes[1:]), model.axes()["layers"], is_leaf=_is_axes)


def placed(model: Model, params: Params, mesh: Mesh, dtype: Any, *, consume: bool) -> Params:
    """Parameters as the model declares them, on any mesh of the same devices -> the form above, in `dtype`: `params["layers"]` is
    a tuple with one tree a layer.

    With `consume` each stack is deleted when its layers are there, so that memory never holds more than one stack twice.
    """

    def move(path: Any, x: Array, axes: LogicalAxes) -> Any:
        name = dotted(path)
        x = jax.device_put(x.astype(dtype), named(mesh, axes, x.shape, name))
        if axes[0] != "layers":
            return x
        shape = dict(zip(axes, x.shape, strict=True))
        order = outputs_first(axes[1:])
        place = named(mesh, order, tuple(shape[axis] for axis in order), name)
        layers = _unstack(tuple(axes[1:].index(axis) for axis in order), place)(x)
        if consume:
            jax.block_until_ready(layers)
            x.delete()
        return layers

    tree = jax.tree_util.tree_map_with_path(move, params, model.axes())
    by_parameter = tree["layers"]
    layers = tuple(
        jax.tree.map(lambda parts, i=i: parts[i], by_parameter, is_leaf=lambda x: isinstance(x, tuple))
        for i in range(model.config.layers)
    )
    return {**tree, "layers": layers}


def abstract_placed(model: Model, mesh: Mesh, dtype: Any) -> Params:
    """The shapes, dtypes and shardings of what `placed` makes."""
    params = model.abstract(mesh, dtype)

    def one(path: Any, stack: jax.ShapeDtypeStruct, axes: LogicalAxes) -> jax.ShapeDtypeStruct:
        shape = dict(zip(axes, stack.shape, strict=True))
        order = outputs_first(axes[1:])
        sizes = tuple(shape[axis] for axis in order)
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=named(mesh, order, sizes, dotted(path)))

    layer = jax.tree_util.tree_map_with_path(one, params["layers"], model.axes()["layers"])
    return {**params, "layers": (layer,) * model.config.layers}


def as_declared(model: Model, params: Params) -> Params:
    """The same weights with the axes that the model declares; within a program this moves nothing."""

    def one(x: Array, axes: LogicalAxes) -> Array:
        order = outputs_first(axes[1:])
        return x.transpose([order.index(axis) for axis in axes[1:]])

    axes = model.axes()["layers"]
    return {**params, "layers": tuple(jax.tree.map(one, layer, axes) for layer in params["layers"])}


def _unstack(order: tuple[int, ...], place: NamedSharding) -> Any:
    return jax.jit(lambda stack: tuple(stack[i].transpose(order) for i in range(len(stack))), out_shardings=place)


def _is_axes(x: Any) -> bool:
    return isinstance(x, tuple)
