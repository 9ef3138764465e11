"""What does a run keep in each device's memory from beginning to end, and how much do its settings save?

Exact, from shapes and shardings alone. Only the compiler knows what is allocated temporarily within a step.
"""

import math
from typing import Any, NamedTuple

import jax

from mpo_jax.models.decoder import Model
from mpo_jax.models.parameters import LAYERS, TOP, cut, joined
from mpo_jax.types import Packed, Params


class Line(NamedTuple):
    """Bytes on one device, `plain` bytes without the setting (None = no setting changes it), and `host` bytes in host memory."""

    name: str
    setting: str
    bytes: int
    plain: int | None = None
    host: int = 0


def bytes_on(tree: Any, kind: str = "device") -> int:
    """The bytes per device of arrays, or of `ShapeDtypeStruct`s with shardings, that are in memory of this kind."""
    leaves = [x for x in jax.tree.leaves(tree) if x.sharding.memory_kind == kind]
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def kept_bytes(model: Model, packed: Packed, dtype: Any, first: int = 0) -> tuple[int, int]:
    """The bytes that the layers keep for the backward pass of one microbatch: (on all devices together, in host memory). Weights
    do not count. `first`: the number of the first layer of which anything is trained."""
    whole = model.abstract(dtype=dtype)
    whole = cut(whole, first) if first else whole
    below = {name: x for name, x in whole.items() if first and name != TOP}
    params = {name: x for name, x in whole.items() if name not in below}

    def pullback(params: Params, below: Params, packed: Packed) -> Any:
        return jax.vjp(lambda params: model.hidden(joined(params, below), packed), params)[1]

    kept = [v.aval for v in jax.make_jaxpr(pullback)(params, below, packed).jaxpr.outvars]
    on_host = sum(_bytes(x) for x in kept if x.memory_space == jax.memory.Space.Host)
    weights = sum(_bytes(x) for x in jax.tree.leaves(params[TOP if first else LAYERS]))
    return sum(map(_bytes, kept)) - on_host - weights, on_host


def _bytes(x: Any) -> int:
    return math.prod(x.shape) * x.dtype.itemsize


def table(lines: list[Line]) -> str:
    """A line each: what it is, GB on each device, GB saved there, GB on the host, and the setting."""
    rows = [("memory of each device", "GB", "saved", "on host", "setting")]
    for line in lines:
        saved = "" if line.plain is None else f"{(line.plain - line.bytes) / 1e9:.3g}"
        on_host = f"{line.host / 1e9:.3g}" if line.host else ""
        rows.append((line.name, f"{line.bytes / 1e9:.3g}", saved, on_host, line.setting))
    return "\n".join(f"{name:<24}{size:>10}{saved:>10}{host:>10}  {setting}" for name, size, saved, host, setting in rows)
