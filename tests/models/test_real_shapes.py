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
from mpo_jax.training.config import TrainConfig, load
from mpo_jax.training.optim import make_optimizer
from mpo_jax.training.step import TrainStep, abstract_state
from mpo_jax.training.step_arguments import step_numbers
from mpo_jax.types import Batch, Packed

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = [path for path in sorted((ROOT / "configs").glob("*.py")) if isinstance(load(str(path), None), TrainConfig)]
ROWS, LENGTH = 8, 1024


def shape(layers, width, ffn, heads):
    """The part of a config.json that every family has."""
    return dict(num_hidden_layers=layers, hidden_size=width, intermediate_size=ffn, num_attention_heads=heads)


# The published number of parameters in millions, that of the files on the hub or of the model card, and the published keys of
# config.json that decide shapes. Of Gemma 3 with images it is the text model's, as Keras counts it.
LLAMA_3 = dict(model_type="llama", vocab_size=128256, num_key_value_heads=8)
SMALL_LLAMA_3 = LLAMA_3 | dict(tie_word_embeddings=True)
QWEN_2 = dict(model_type="qwen2", vocab_size=151936)
SMALL_QWEN_2 = QWEN_2 | dict(num_key_value_heads=2, tie_word_embeddings=True)
QWEN_3 = dict(model_type="qwen3", vocab_size=151936, num_key_value_heads=8, head_dim=128)
GEMMA_3 = dict(model_type="gemma3_text", rope_scaling=dict(factor=8.0, rope_type="linear"), sliding_window=1024)
COHERE = dict(vocab_size=256000, num_key_value_heads=8)
REAL = {
    "meta-llama/Llama-3.1-8B-Instruct": (8030, LLAMA_3 | shape(32, 4096, 14336, 32)),
    "meta-llama/Llama-3.2-1B-Instruct": (1236, SMALL_LLAMA_3 | shape(16, 2048, 8192, 32) | dict(head_dim=64)),
    "meta-llama/Llama-3.2-3B-Instruct": (3213, SMALL_LLAMA_3 | shape(28, 3072, 8192, 24) | dict(head_dim=128)),
    "meta-llama/Llama-3.3-70B-Instruct": (70554, LLAMA_3 | shape(80, 8192, 28672, 64)),
    "utter-project/EuroLLM-1.7B-Instruct": (1657, LLAMA_3 | shape(24, 2048, 5632, 16) | dict(vocab_size=128000)),
    "utter-project/EuroLLM-9B-Instruct": (9152, LLAMA_3 | shape(42, 4096, 12288, 32) | dict(vocab_size=128000)),
    "google/gemma-2-9b-it": (
        9242, dict(model_type="gemma2", num_key_value_heads=8, head_dim=256, vocab_size=256000) | shape(42, 3584, 14336, 16)
    ),
    "Qwen/Qwen2.5-0.5B-Instruct": (494, SMALL_QWEN_2 | shape(24, 896, 4864, 14)),
    "Qwen/Qwen2.5-1.5B-Instruct": (1544, SMALL_QWEN_2 | shape(28, 1536, 8960, 12)),
    "Qwen/Qwen2.5-3B-Instruct": (3086, SMALL_QWEN_2 | shape(36, 2048, 11008, 16)),
    "Qwen/Qwen2.5-7B-Instruct": (7616, QWEN_2 | shape(28, 3584, 18944, 28) | dict(num_key_value_heads=4, vocab_size=152064)),
    "Qwen/Qwen3-0.6B": (596, QWEN_3 | shape(28, 1024, 3072, 16) | dict(tie_word_embeddings=True)),
    "Qwen/Qwen3-8B": (8191, QWEN_3 | shape(36, 4096, 12288, 32)),
    "Qwen/Qwen3-32B": (32762, QWEN_3 | shape(64, 5120, 25600, 64)),
    "google/gemma-3-1b-it": (
        1000, GEMMA_3 | shape(26, 1152, 6912, 4) | dict(num_key_value_heads=1, vocab_size=262144, sliding_window=512)
    ),
    "google/gemma-3-4b-it": (3880, GEMMA_3 | dict(num_hidden_layers=34, hidden_size=2560, intermediate_size=10240)),
    "google/gemma-3-12b-it": (11766, GEMMA_3 | shape(48, 3840, 15360, 16) | dict(num_key_value_heads=8)),
    "google/gemma-3-27b-it": (
        27009, GEMMA_3 | shape(62, 5376, 21504, 32) | dict(num_key_value_heads=16, head_dim=128, query_pre_attn_scalar=168)
    ),
    "mistralai/Mistral-7B-Instruct-v0.3": (
        7248, dict(model_type="mistral", vocab_size=32768, sliding_window=None) | shape(32, 4096, 14336, 32)
    ),
    "CohereLabs/aya-expanse-8b": (8028, COHERE | dict(model_type="cohere", logit_scale=0.125) | shape(32, 4096, 14336, 32)),
    "CohereLabs/aya-expanse-32b": (32296, COHERE | dict(model_type="cohere", logit_scale=0.0625) | shape(40, 8192, 24576, 64)),
    "CohereLabs/c4ai-command-r7b-12-2024": (
        8028, COHERE | dict(model_type="cohere2", logit_scale=0.25, sliding_window_pattern=4) | shape(32, 4096, 14336, 32)
    ),
    "allenai/OLMo-2-1124-7B-Instruct": (
        7299, dict(model_type="olmo2", vocab_size=100352, num_key_value_heads=32) | shape(32, 4096, 11008, 32)
    ),
}  # fmt: skip
MESHES = [(1, 8, 1), (2, 2, 2), (1, 4, 4)]


def real_model(name, remat="full"):
    raw = REAL[name][1] if name in REAL else json.loads((ROOT / name / "config.json").read_text(encoding="utf-8"))
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
    assert sum(sizes) / 1e6 == pytest.approx(REAL[name][0], abs=1)


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
