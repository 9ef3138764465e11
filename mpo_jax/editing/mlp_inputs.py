"""What enters each MLP when a model reads a prompt? One vector a prompt and layer; only one layer's weights are in memory."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mpo_jax.checkpoints.hugging_face import layer_reader, load_params
from mpo_jax.data.packing import pack_prompts
from mpo_jax.devices import processes
from mpo_jax.devices.sharding import everywhere, host_to_global, shards
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.base import Family
from mpo_jax.scoring.sequences import pool
from mpo_jax.types import Array, Packed, Params

POSITIONS = ("last_prompt", "mean")  # those of `types.POOLINGS` that a prompt alone has


@dataclasses.dataclass(frozen=True)
class Forward:
    """A checkpoint that prompts are sent through. `pooling`: "last_prompt", the state at a prompt's last token, or "mean", over
    its tokens."""

    model_dir: Path
    model: Model
    family: Family
    mesh: Mesh
    dtype: Any
    pad_id: int
    pooling: str

    def mlp_inputs(self, prompts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Of each layer in turn, float32 (N, D), in the order of the prompts, which are ids of rank 1. The states of all prompts'
        tokens stay on the devices, in the dtype of the computation."""
        batches, slots = pack_prompts(prompts, rows=shards(self.mesh, "batch"), pad_id=self.pad_id, pooling=self.pooling)
        packed = [host_to_global(batch, self.mesh, ("batch",)) for batch, _ in batches]
        read = layer_reader(self.model_dir, self.model, self.family, self.mesh, self.dtype)
        states = self._embedded(packed)
        for layer in processes.progress(range(self.model.config.layers), desc="layers", unit="layer"):
            params = read(layer)
            alike = self.model.config.kinds.index(self.model.config.kinds[layer])  # so that few are compiled
            inputs_ND = np.zeros((len(prompts), self.model.config.hidden_size), np.float32)
            for k, (_, held) in enumerate(batches):
                states[k], pooled = through(self.model, alike, slots, params, states[k], packed[k])
                inputs_ND[held] = jax.device_get(pooled)[: len(held)]
            yield inputs_ND

    def _embedded(self, packed: Sequence[Packed]) -> list[Array]:
        params = load_params(self.model_dir, self.model, self.family, self.mesh, self.dtype, only=("embedding",))
        embed = jax.jit(self.model.embed)
        return [embed(params, batch.tokens_ST) for batch in packed]


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def through(model: Model, layer: int, slots: int, params: Params, x_STD: Array, packed: Packed) -> tuple[Array, Array]:
    """(the states after one layer, what entered its MLP of each prompt)."""
    readers = {"mlp_input": lambda x_STD: pool(x_STD, packed, slots)}
    x_STD, found = model.one_layer(params, layer, x_STD, packed, readers)
    return x_STD, everywhere(found["mlp_input"])
