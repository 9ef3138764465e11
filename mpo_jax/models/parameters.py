"""How do a trainable and a frozen tree of parameters make one model?

A parameter is in one of them; or its weight is in the frozen one, and an adapter of it in the trainable one. The layers are one
stack, or two where the lower ones are frozen, so that nothing is cut or put together while a step runs.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from mpo_jax.types import Params

LAYERS, TOP = "layers", "top_layers"  # the stack of all layers, or of the lower ones; that of the upper ones


@functools.partial(jax.tree_util.register_dataclass, data_fields=("weight", "a", "b"), meta_fields=("scale",))
@dataclasses.dataclass(frozen=True)
class Adapted:
    """A weight and its low-rank adapter, in place of the weight: x W + scale (x A) B, with A [*in, r] and B [r, *out], both
    behind the axis of the layers where W is stacked. Without A and B it is the frozen half, which `joined` completes.

    E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, eq. 3.
    """

    weight: Any
    scale: float
    a: Any = None
    b: Any = None

    def __getitem__(self, key: Any) -> "Adapted":
        """A parameter of a module is read as `parameter[...]`."""
        assert key is ...
        return self


@functools.partial(jax.tree_util.register_dataclass, data_fields=("policy", "reference"), meta_fields=("shared",))
@dataclasses.dataclass(frozen=True)
class Frozen:
    """The parameters that no update changes. `policy`: those beside the trainable ones, in the compute dtype; empty in full
    fine-tuning. `reference`: all of its parameters; empty where its scores come with the data or the method does not read it, or
    where it is `shared`: the policy's frozen parameters without adapters."""

    policy: Params
    reference: Params
    shared: bool = False

    @property
    def reference_params(self) -> Params:
        return plain(self.policy) if self.shared else self.reference


def joined(trainable: Params, frozen: Params) -> Params:
    """All parameters of a model, from the tree of the trainable ones and the tree of the frozen ones."""
    both = trainable.keys() & frozen.keys()
    return {**frozen, **trainable, **{name: _both(trainable[name], frozen[name]) for name in both}}


def _both(trainable: Any, frozen: Any) -> Any:
    if isinstance(frozen, Adapted):
        return dataclasses.replace(frozen, **trainable)
    assert isinstance(trainable, dict) and isinstance(frozen, dict), "a parameter is both trainable and frozen"
    return joined(trainable, frozen)


def cut(params: Params, first: int) -> Params:
    """Parameters, or their shapes, with the layers from number `first` on as a stack of their own."""
    lower, upper = (
        jax.tree.map(lambda x, part=part: _part(x, part), params[LAYERS]) for part in (slice(None, first), slice(first, None))
    )
    return {**params, LAYERS: lower, TOP: upper}


def _part(x: Any, part: slice) -> Any:
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(range(len(x))[part]), *x.shape[1:]), x.dtype, sharding=x.sharding)
    return x[part]


def uncut(params: Params) -> Params:
    """Parameters with all layers in one stack, which is a copy where there were two."""
    if TOP not in params:
        return params
    whole = jax.jit(lambda lower, upper: jax.tree.map(lambda a, b: jnp.concatenate([a, b]), lower, upper))
    return {name: x for name, x in params.items() if name != TOP} | {LAYERS: whole(params[LAYERS], params[TOP])}


def grouped(stack: Params, size: int) -> Params:
    """A stack of layers as groups of `size`: [L, ...] -> [L / size, size, ...], the same bytes.

    Left free, XLA gives groups of one another order of axes on a CPU, and copies the whole stack for it. Without a mesh it stays
    free, since the constraint would tie what is computed to a device."""
    on_mesh = not jax.sharding.get_abstract_mesh().empty

    def one(x: Any) -> Any:
        groups = x.reshape(-1, size, *x.shape[1:])
        return with_layout_constraint(groups, Layout(tuple(range(groups.ndim)))) if on_mesh else groups

    return jax.tree.map(one, stack)


def in_stack(params: Params, path: str, layer: int | None, layers: int) -> tuple[Any, int | None]:
    """(the parameter at a dotted path of a model with so many layers, None where the tree does not have it; the number of `layer`
    in its stack)."""
    top = _get(params, f"{TOP}{path.removeprefix(LAYERS)}") if layer is not None else None
    if top is not None and layer is not None and (number := layer - layers + len(top)) >= 0:
        return top, number
    return _get(params, path), layer


def _get(params: Params, path: str) -> Any:
    return functools.reduce(lambda node, key: None if node is None else node.get(key), path.split("."), params)


def first_reached(trainable: Params, layers: int) -> int:
    """The first of so many layers of which anything is trained, or the number of layers; 0 where the embedding is."""
    if "embedding" in trainable or LAYERS in trainable:
        return 0
    return layers - len(jax.tree.leaves(trainable[TOP])[0]) if TOP in trainable else layers


def plain(params: Params) -> Params:
    """The weights without their adapters."""
    is_adapted = lambda x: isinstance(x, Adapted)  # noqa: E731
    return jax.tree.map(lambda x: x.weight if isinstance(x, Adapted) else x, params, is_leaf=is_adapted)
