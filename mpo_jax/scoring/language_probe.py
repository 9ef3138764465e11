"""Where are a model's languages in its states? Makes the probe of LENS from parallel prompts."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.data.chat import Example
from mpo_jax.data.dataset import Tokens
from mpo_jax.data.packing import pack_prompts
from mpo_jax.data.rows import Row
from mpo_jax.devices.sharding import everywhere, host_to_global, shards
from mpo_jax.errors import InputError
from mpo_jax.files import hub
from mpo_jax.losses.language_subspaces import Subspaces
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.registry import build
from mpo_jax.scoring.sequences import pool
from mpo_jax.types import Array, Packed, Params


def make_probe(
    model: str | Path,
    rows: Sequence[Row],
    mesh: Mesh,
    *,
    template: str = "authors",
    max_length: int = 1024,
    dtype: str = "bfloat16",
    rank: int | None = None,
) -> Subspaces:
    """The subspaces of the languages of these rows in a model, from the states of the prompts' last tokens after the final norm.
    `template` and `max_length`: as in `data.dataset.DataConfig`. Answers are not read,
    but for their length where a sequence is cut. Errors: those of `by_language`, of the model and of `Subspaces.of`."""
    model_dir = hub.resolve(str(model))
    family, decoder, _ = build(model_dir)
    tokens = Tokens.of(model_dir, family.authors_chat, template, max_length)
    prompts = by_language(rows, tokens.examples(rows))
    with jax.set_mesh(mesh):
        params = load_params(model_dir, decoder, family, mesh, jnp.dtype(dtype))
        means = {language: mean_state(decoder, params, found, mesh, tokens.pad_id) for language, found in prompts.items()}
    return Subspaces.of(means, rank)


def by_language(rows: Sequence[Row], examples: Sequence[Example]) -> dict[str, list[np.ndarray]]:
    """The distinct prompts of each language, int32 ids, the dominant language first. Errors: a row without a dominant side; rows
    with different dominant languages."""
    found: dict[str, dict[bytes, np.ndarray]] = {}
    for row, example in zip(rows, examples, strict=True):
        if row.source is None or example.source is None:
            raise InputError(f"A probe needs parallel prompts, but row '{row.id}' has no 'source': take it out.")
        for language, ids in ((row.source.language, example.source.prompt), (row.target.language, example.target.prompt)):
            found.setdefault(language, {}).setdefault(ids.tobytes(), ids)
    if len(dominant := {row.source.language for row in rows if row.source}) != 1:
        raise InputError(
            f"A probe has one dominant language, but these rows have {', '.join(sorted(dominant))}: make one for each."
        )
    return {language: list(prompts.values()) for language, prompts in found.items()}


def mean_state(model: Model, params: Params, prompts: Sequence[np.ndarray], mesh: Mesh, pad_id: int) -> np.ndarray:
    """The mean of the states of the prompts' last tokens after the final norm, float64 (D,)."""
    batches, slots = pack_prompts(prompts, rows=shards(mesh, "batch"), pad_id=pad_id, pooling="last_prompt")
    total = np.zeros(model.config.hidden_size)
    for batch, held in batches:
        states = jax.device_get(_last_states(model, slots, params, host_to_global(batch, mesh, ("batch",))))
        total += states[: len(held)].astype(np.float64).sum(axis=0)
    return total / len(prompts)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _last_states(model: Model, slots: int, params: Params, packed: Packed) -> Array:
    return everywhere(pool(model.hidden(params, packed), packed, slots))
