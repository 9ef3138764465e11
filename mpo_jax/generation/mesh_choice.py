"""Which devices hold one copy of the weights? As few as have room for it, of one process if that is enough."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mpo_jax.devices.sharding import make_generation_mesh
from mpo_jax.errors import InputError
from mpo_jax.models.decoder import Model

FOR_WEIGHTS = 0.6  # of a device's memory; caches and what is computed take the rest


def generation_mesh(model: Model, dtype: Any, *, tensor: int | None = None, width: int | None = None) -> tuple[Mesh, bool]:
    """(the mesh, whether it spans several processes). A copy of the weights lies on tensor * width devices; what is None is
    chosen. Where a copy has room on one process's devices, every process has copies of its own, and prompts of its own: nothing
    then waits for another host.

    Errors: a mesh that does not divide the model or the devices; no mesh whose devices have room.
    """
    if tensor is None:
        tensor = 1 if width is not None else _fewest(model, dtype, jax.device_count())
    width = 1 if width is None else width
    local = jax.local_devices()
    spans = jax.process_count() > 1 and len(local) % (tensor * width) != 0
    mesh = make_generation_mesh(width=width, tensor=tensor, devices=jax.devices() if spans else local)
    model.abstract(mesh)  # says which axis the mesh does not divide
    return mesh, spans


def _fewest(model: Model, dtype: Any, devices: int) -> int:
    """The smallest `tensor` whose devices have room, of those that divide the model; 1 where devices do not tell their memory."""
    stats = jax.local_devices()[0].memory_stats() or {}
    room = stats.get("bytes_limit")
    if room is None:
        return 1
    size = sum(math.prod(x.shape) for x in jax.tree.leaves(model.abstract())) * jnp.dtype(dtype).itemsize
    options = possible(model, devices)
    for tensor in options:
        if size / tensor <= FOR_WEIGHTS * room:
            return tensor
    raise InputError(
        f"The weights take {size / 2**30:.1f} GiB in {jnp.dtype(dtype).name}, too much for {options[-1]} devices of "
        f"{room / 2**30:.1f} GiB, over which tensor can split this model: give tensor={options[-1]} and a width, or more devices."
    )


def possible(model: Model, devices: int) -> Sequence[int]:
    """The numbers of devices over which `tensor` can split the model, ascending."""
    c = model.config
    common = math.gcd(c.heads, c.kv_heads, c.ffn, c.vocab_size, devices)
    return [n for n in range(1, common + 1) if common % n == 0]
