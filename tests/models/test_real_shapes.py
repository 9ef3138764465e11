"""Every config's real model on the meshes it will be trained on: a step's shapes and shardings, with no array behind them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh

from mpo_jax.devices.sharding import MESH_AXES, named
from mpo_jax.errors import InputError
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.registry import FAMILIES
from mpo_jax.models.parameters import Frozen
from mpo_jax.scoring.objective import Task
from mpo_jax.training.config import load
from mpo_jax.training.optim import make_optimizer
from mpo_jax.training.step import TrainStep, abstract_state
from mpo_jax.training.step_arguments import step_numbers
from mpo_jax.types import Batch, Packed

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
ROWS, LENGTH = 8, 1024

# The published hyper-parameters that decide shapes.
REAL = {
    "meta-llama/Llama-3.1-8B-Instruct": dict(
        model_type="llama", num_hidden_layers=32, hidden_size=4096, intermediate_size=14336, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256,
    ),
    "google/gemma-2-9b-it": dict(
        model_type="gemma2", num_hidden_layers=42, hidden_size=3584, intermediate_size=14336, num_attention_heads=16,
        num_key_value_heads=8, head_dim=256, vocab_size=256000,
    ),
    "Qwen/Qwen2.5-7B-Instruct": dict(
        model_type="qwen2", num_hidden_layers=28, hidden_size=3584, intermediate_size=18944, num_attention_heads=28,
        num_key_value_heads=4, vocab_size=152064, tie_word_embeddings=False,
    ),
}  # fmt: skip
MILLIONS = {"meta-llama/Llama-3.1-8B-Instruct": 8030, "google/gemma-2-9b-it": 9242, "Qwen/Qwen2.5-7B-Instruct": 7616}
MESHES = [(1, 8, 1), (2, 2, 2), (1, 4, 4)]


def real_model(name, remat="full"):
    raw = REAL[name] if name in REAL else json.loads((ROOT / name / "config.json").read_text(encoding="utf-8"))
    return Model(FAMILIES[raw["model_type"]].read_config(raw), remat)


def abstract_batch(mesh):
    """A full batch of one sequence a packed row, placed as `batch_to_mesh` would."""
    S = 4 * ROWS

    def ints(name, shape=(1, S, LENGTH), axes=(None, "batch", None), dtype=jnp.int32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=named(mesh, axes, shape, f"batch.{name}"))

    names = ("tokens_ST", "position_ST", "segment_ST", "kv_segment_ST", "answer_at_SA", "answer_label_SA", "answer_slot_SA")
    side = Packed(
        **{name: ints(name) for name in (*names, "pool_slot_ST")}, pool_weight_ST=ints("pool_weight_ST", dtype=jnp.float32)
    )
    per_row = {"shape": (1, ROWS), "axes": (None, None)}
    return Batch(side, side, ints("weight_B", **per_row, dtype=jnp.float32), ints("language_B", **per_row))


def abstract_step(config, mesh):
    """(state before, state after, metrics) of one update, as shapes."""
    model = real_model(config.model, config.remat)
    optimizer = make_optimizer(config.optim, 150)
    task = Task(model, config.loss, ("sw", "zh"))
    with jax.sharding.use_abstract_mesh(mesh):
        state = abstract_state(model.abstract(mesh), optimizer, mesh)
        reference = model.abstract(mesh, jnp.dtype(config.reference_dtype))
        step = TrainStep(task, optimizer, jnp.dtype(config.compute_dtype))
        return state, *jax.eval_shape(step, state, Frozen({}, reference), abstract_batch(mesh), step_numbers(config.loss, 1e-6))


@pytest.mark.parametrize("shape", MESHES, ids=str)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_step_of_the_real_model_fits_the_mesh(path, shape):
    before, after, metrics = abstract_step(load(str(path), None), AbstractMesh(shape, MESH_AXES))
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(after.trainable)), "masters stay float32"
    assert {"loss", "grad_norm", "learning_rate", "gap/sw"} <= metrics.keys()


@pytest.mark.parametrize("name", REAL)
def test_the_published_number_of_parameters(name):
    sizes = jax.tree.leaves(jax.tree.map(lambda x: x.size, real_model(name).abstract()))
    assert sum(sizes) / 1e6 == pytest.approx(MILLIONS[name], abs=1)


@pytest.mark.parametrize(
    ("name", "shape", "parameter", "words"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", (1, 1, 8), r"layers\.attention\.k", "'kv_heads' has 4 entries"),
        ("Qwen/Qwen2.5-7B-Instruct", (1, 3, 1), "embedding", "'embed' has 3584 entries"),
        ("google/gemma-2-9b-it", (1, 1, 16), r"layers\.attention\.k", "'kv_heads' has 8 entries"),
    ],
)
def test_a_mesh_that_cannot_hold_the_model_is_a_sentence(name, shape, parameter, words):
    mesh = AbstractMesh(shape, MESH_AXES)
    with pytest.raises(InputError, match=rf"^{parameter}.* of shape .* {words}.* on the mesh .*choose a mesh"):
        real_model(name).abstract(mesh)


def test_a_batch_that_the_mesh_does_not_divide_is_a_sentence():
    with pytest.raises(InputError, match=r"batch\.tokens_ST of shape \(1, 32, 1024\) .* splits it into 64 parts"):
        abstract_batch(AbstractMesh((1, 64, 1), MESH_AXES))
