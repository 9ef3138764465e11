"""A small model without its weights, to lay out on slices of TPUs that are not here."""

import importlib.util
import json

import pytest

from mpo_jax.data.dataset import DataConfig
from mpo_jax.planning import programs, slice_fit, tpu_compiler
from mpo_jax.training import config as configs

RAW = {
    "model_type": "llama", "vocab_size": 65536, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "tie_word_embeddings": False, "hidden_act": "silu",
}  # fmt: skip
LENGTH = 256
MESH = {"data": 1, "fsdp": 4, "tensor": 1}
FITS = tpu_compiler.Memory(fits=True, peak=1, usable=2**40, temporaries=1, largest="f32[1] of copy", largest_bytes=4, kernels=3)


def write_model(model_dir):
    """A model's configuration."""
    (model_dir / "config.json").write_text(json.dumps(RAW))
    return model_dir


def config(model_dir, **changes) -> configs.TrainConfig:
    return configs.TrainConfig(model=str(model_dir), data=DataConfig("no file", max_length=LENGTH), output="nowhere", **changes)


def config_file(model_dir, tmp_path):
    path = tmp_path / "run.py"
    path.write_text(
        "from mpo_jax.data.dataset import DataConfig\nfrom mpo_jax.training.config import TrainConfig\n"
        f"def get_config(v=None): return TrainConfig(model={str(model_dir)!r}, data=DataConfig('no file'), output='nowhere')"
    )
    return path


def needs_compiler(test):
    """Marks a test that compiles for TPUs, or loads what would."""
    absent = importlib.util.find_spec("libtpu") is None
    reason = "the TPU compiler is not installed: pip install -r requirements-tpu-plan.txt"
    return pytest.mark.slow(pytest.mark.usefixtures("tpu_compiler")(pytest.mark.skipif(absent, reason=reason)(test)))


def planned(run, topology, **options) -> slice_fit.SliceReport:
    return slice_fit.compiled(programs.lay_out(run, topology, **options))
