"""What of a run lies in each device's memory from beginning to end, and what have its settings saved?

Exact, from shapes and shardings alone. What comes and goes within a step is the compiler's to say.
"""

import math
from typing import Any, NamedTuple

import jax

from mpo_jax.models.decoder import Model
from mpo_jax.types import Packed, Params


class Line(NamedTuple):
    """Bytes on one device, there without the setting (None = no setting changes it), and in the host's memory."""

    name: str
    setting: str
    bytes: int
    plain: int | None = None
    host: int = 0


def bytes_on(tree: Any, kind: str = "device") -> int:
    """Bytes of each device's part of arrays, or of `ShapeDtypeStruct`s with shardings, that lie in memory of this kind."""
    leaves = [x for x in jax.tree.leaves(tree) if x.sharding.memory_kind == kind]
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def kept_bytes(model: Model, packed: Packed, dtype: Any) -> int:
    """Bytes that the layers keep for the backward pass of one microbatch, over all devices; the weights are not counted."""
    params = model.abstract(dtype=dtype)

    def pullback(params: Params, packed: Packed) -> Any:
        return jax.vjp(lambda params: model.hidden(params, packed), params)[1]

    total = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
    return total(jax.eval_shape(pullback, params, packed)) - total(params["layers"])


def table(lines: list[Line]) -> str:
    """A line each: what it is, GB on each device, GB saved there, GB on the host, and the setting."""
    rows = [("memory of each device", "GB", "saved", "on host", "setting")]
    for line in lines:
        saved = "" if line.plain is None else f"{(line.plain - line.bytes) / 1e9:.3f}"
        rows.append((line.name, f"{line.bytes / 1e9:.3f}", saved, f"{line.host / 1e9:.3f}" if line.host else "", line.setting))
    return "\n".join(f"{name:<24}{size:>9}{saved:>9}{host:>9}  {setting}" for name, size, saved, host, setting in rows)
