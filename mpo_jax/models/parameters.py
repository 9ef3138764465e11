"""How do a trainable and a frozen tree of parameters make one model?

A parameter is in one of them; or its weight is in the frozen one, and an adapter of it in the trainable one.
"""

import dataclasses
import functools
from typing import Any

import jax

from mpo_jax.types import Params


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


def plain(params: Params) -> Params:
    """The weights without their adapters."""
    is_adapted = lambda x: isinstance(x, Adapted)  # noqa: E731
    return jax.tree.map(lambda x: x.weight if isinstance(x, Adapted) else x, params, is_leaf=is_adapted)
