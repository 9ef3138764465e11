"""Config readers: both spellings, the defaults of absent keys, and a sentence for what is not supported."""

import json
from pathlib import Path

import jax
import pytest

from mpo_jax.errors import InputError
from mpo_jax.models.families.base import write_config
from mpo_jax.models.families.registry import FAMILIES, build
from mpo_jax.models.layers import Llama3Scaling

FIXTURES = Path(__file__).parent.parent / "fixtures"
ESSENTIAL = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4)
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)


def read(name, **keys):
    return FAMILIES[name].read_config(ESSENTIAL | keys)


def write(folder, **keys):
    (folder / "config.json").write_text(json.dumps(ESSENTIAL | {"model_type": "llama"} | keys))
    return folder


def test_both_spellings_are_one_config():
    published = read("llama", rope_theta=5e5, rope_scaling=LLAMA3 | {"rope_type": "llama3"})
    older = read("llama", rope_theta=5e5, rope_scaling=LLAMA3 | {"type": "llama3"})
    newer = read("llama", rope_parameters=LLAMA3 | {"rope_type": "llama3", "rope_theta": 5e5})
    assert published == older == newer
    assert published.rope_scaling == Llama3Scaling(**LLAMA3) and published.rope_theta == 5e5


def test_defaults_of_absent_keys():
    llama, gemma, qwen = read("llama"), read("gemma2"), read("qwen2", num_key_value_heads=2)
    assert (llama.head_dim, llama.kv_heads, llama.tied, llama.norm_eps, llama.rope_theta) == (8, 4, False, 1e-6, 1e4)
    assert (gemma.head_dim, gemma.kv_heads, gemma.tied, gemma.query_scale) == (256, 4, True, 1 / 16)
    assert (gemma.attn_softcap, gemma.final_softcap, gemma.norm_offset) == (50.0, 30.0, 1)
    assert gemma.layer_windows == (4096, None, 4096, None) and gemma.activation == "gelu_tanh"
    assert (qwen.tied, qwen.qkv_bias, qwen.layer_windows) == (False, True, (None,) * 4)


def test_windows():
    listed = read("gemma2", sliding_window=8, layer_types=["full_attention", "sliding_attention"] * 2)
    assert listed.layer_windows == (None, 8) * 2
    sliding = dict(num_key_value_heads=2, use_sliding_window=True, sliding_window=8, max_window_layers=3)
    assert read("qwen2", **sliding).layer_windows == (None, None, None, 8)
    assert read("qwen2", **sliding | {"use_sliding_window": False}).layer_windows == (None,) * 4


def test_gemma_reads_hidden_activation_before_hidden_act():
    assert read("gemma2", hidden_act="gelu", hidden_activation="gelu_pytorch_tanh").activation == "gelu_tanh"
    assert read("gemma2", attn_logit_softcapping=None).attn_softcap is None


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"type": "llama3", "factor": 4.0}}, "low_freq_factor"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"hidden_act": "relu"}, "relu"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": "4"}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"model_type": "mamba"}, "mamba.*llama, gemma2, qwen2"),
    ],
)
def test_what_is_not_supported_is_a_sentence(tmp_path, keys, words):
    with pytest.raises(InputError, match=words):
        build(write(tmp_path, **keys))


def test_layer_types_must_fit():
    with pytest.raises(InputError, match="layer_types"):
        read("gemma2", layer_types=["full_attention"])
    with pytest.raises(InputError, match="layer_types"):
        read("gemma2", layer_types=["chunked_attention"] * 4)


def test_no_and_broken_config(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        build(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="JSON"):
        build(tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_written_config_keeps_everything_and_reads_the_same(name):
    family, model, raw = build(FIXTURES / name)
    written = write_config(raw, "bfloat16")
    assert "rope_parameters" not in written and "dtype" not in written
    assert written["torch_dtype"] == "bfloat16" and isinstance(written["rope_theta"], float)
    assert {k for k in raw if k not in ("rope_parameters", "dtype")} <= written.keys()
    assert family.read_config(written) == model.config == family.read_config(raw)


BILLIONS = {
    "Llama-3.1-8B-Instruct": 8.03,
    "Llama-3.1-70B-Instruct": 70.55,
    "gemma-2-9b-it": 9.24,
    "gemma-2-27b-it": 27.23,
    "Qwen2.5-7B-Instruct": 7.62,
}


@pytest.mark.parametrize("file", BILLIONS)
def test_published_configs_have_the_published_number_of_parameters(shared, tmp_path, file):
    raw = json.loads((shared / "data" / "model_configs" / f"{file}.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw))
    _, model, _ = build(tmp_path)
    count = sum(x.size for x in jax.tree.leaves(model.abstract()))
    assert count / 1e9 == pytest.approx(BILLIONS[file], abs=0.006)
