"""How does one program compute layers of several kinds? As groups that repeat, or as single layers that choose as they run."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from mpo_jax.types import Array

# Layers whose kinds repeat after at most as many are compiled one by one, in a loop over groups of them. Otherwise the loop is
# over single layers, each of which chooses its kind of attention as it runs: 62 layers would take the compiler too long.
UNROLLED = 8


def period(kinds: tuple[Any, ...]) -> int:
    """The smallest number of layers after which their kinds repeat; it divides the number of layers."""
    return next(p for p in range(1, len(kinds) + 1) if len(kinds) % p == 0 and kinds == kinds[:p] * (len(kinds) // p))


def together(kinds: tuple[Any, ...]) -> int:
    """The number of layers in a group."""
    return repeated if (repeated := period(kinds)) <= UNROLLED else 1


@dataclasses.dataclass(frozen=True)
class Choice:
    """What each layer chooses among: the kinds that there are, the number of each layer's kind, int32 [L], and the rotary angles
    of each kind, [K, S, T, H / 2], which are 0 where it has no positions."""

    kinds: tuple[Any, ...]
    number_L: Array
    angle_KSTR: Array

    @classmethod
    def of(cls, kinds: tuple[Any, ...], angles: Sequence[Array | None], still_STR: Array) -> "Choice":
        """`angles`: those of each layer; `still_STR`: those of no rotation."""
        distinct = tuple(dict.fromkeys(kinds))
        of_kind = [angles[kinds.index(kind)] for kind in distinct]
        stacked = jnp.stack([still_STR if angle_STR is None else angle_STR for angle_STR in of_kind])
        return cls(distinct, jnp.asarray([distinct.index(kind) for kind in kinds], jnp.int32), stacked)
