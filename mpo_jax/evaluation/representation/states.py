"""What is a model's state at the end of a prompt and its answer? After the final norm, and after each layer where asked for."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mpo_jax.checkpoints.peft_folder import load_with_adapter
from mpo_jax.data.dataset import Tokens
from mpo_jax.data.packing import pack_prompts
from mpo_jax.data.rows import PairText, Row
from mpo_jax.data.split import prompt_of
from mpo_jax.devices import processes
from mpo_jax.devices.sharding import everywhere, host_to_global, shards
from mpo_jax.files import hub
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.registry import build
from mpo_jax.scoring.sequences import pool
from mpo_jax.types import Array, Packed, Params

POSITIONS = {"last": "last_prompt", "mean": "mean"}  # ours -> those of `types.POOLINGS`, for a sequence without an answer


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A prompt with an answer that is safe or not. `prompt`: the same for one prompt in all languages."""

    language: str
    prompt: str
    safe: bool
    row: int
    side: str  # "source" or "target"


def exchanges_of(rows: Sequence[Row]) -> list[Exchange]:
    """Both answers of both sides of every row; what rows share counts once."""
    found: dict[tuple[PairText, str], list[Exchange]] = {}
    for i, row in enumerate(rows):
        for side in ("source", "target"):
            text = getattr(row, side)
            if text is not None:
                both = [Exchange(text.language, prompt_of(row), safe, i, side) for safe in (True, False)]
                found.setdefault((text, prompt_of(row)), both)
    return [exchange for both in found.values() for exchange in both]


@dataclasses.dataclass(frozen=True)
class States:
    """Float32 (N, D) of N exchanges: `final`, and of each layer where they were asked for, (L, N, D)."""

    final: np.ndarray
    layers: np.ndarray | None


def states_of(
    name: str,
    rows: Sequence[Row],
    exchanges: Sequence[Exchange],
    *,
    mesh: Mesh,
    template: str,
    max_length: int,
    dtype: str,
    position: str,
    layers: bool = False,
    adapter: str | None = None,
) -> States:
    """The states of one model, with that model's own tokenizer, and an adapter where one is given. `position`: "last", at the
    last token, or "mean", over all tokens. Errors: those of the model, the adapter and the tokens."""
    model_dir = hub.resolve(name)
    family, model, _ = build(model_dir)
    tokens = Tokens.of(model_dir, family.authors_chat, template, max_length)
    examples = tokens.examples(rows)

    def ids(exchange: Exchange) -> np.ndarray:
        pair = getattr(examples[exchange.row], exchange.side)
        return np.concatenate([pair.prompt, pair.chosen if exchange.safe else pair.rejected])

    sequences = [ids(exchange) for exchange in exchanges]
    params = load_with_adapter(model_dir, model, family, mesh, jnp.dtype(dtype), adapter)
    return _read(model, params, sequences, mesh, tokens.pad_id, POSITIONS[position], layers)


def _read(
    model: Model, params: Params, sequences: Sequence[np.ndarray], mesh: Mesh, pad_id: int, pooling: str, layers: bool
) -> States:
    batches, slots = pack_prompts(sequences, rows=shards(mesh, "batch"), pad_id=pad_id, pooling=pooling)
    width, depth = model.config.hidden_size, model.config.layers
    final_ND = np.zeros((len(sequences), width), np.float32)
    layers_LND = np.zeros((depth if layers else 0, len(sequences), width), np.float32)
    for packed, held in processes.progress(batches, desc="states", unit="batch", delay=2):
        final, of_layers = jax.device_get(_states(model, slots, layers, params, host_to_global(packed, mesh, ("batch",))))
        final_ND[held] = final[: len(held)]
        if layers:
            layers_LND[:, held] = of_layers["residual"][:, : len(held)]
    return States(final_ND, layers_LND if layers else None)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _states(model: Model, slots: int, layers: bool, params: Params, packed: Packed) -> tuple[Array, dict[str, Any]]:
    pooled = lambda x_STD: everywhere(pool(x_STD, packed, slots))  # noqa: E731
    hidden_STD, found = model.tapped(params, packed, {"residual": pooled} if layers else {})
    return pooled(hidden_STD), found
