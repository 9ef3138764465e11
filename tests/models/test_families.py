"""Config readers: both spellings, the defaults of absent keys, and a sentence for what is not supported."""

import json
from pathlib import Path

import jax
import pytest

from mpo_jax.errors import InputError
from mpo_jax.models.families.base import write_config
from mpo_jax.models.families.registry import FAMILIES, MISSING, TEXT_OF, build
from mpo_jax.models.layers import LinearScaling, Llama3Scaling, Rope

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


def test_defaults_of_absent_keys_of_newer_families():
    qwen, mistral, olmo = read("qwen3", num_key_value_heads=2), read("mistral", num_attention_heads=8), read("olmo2")
    assert (qwen.head_dim, qwen.qkv_bias, qwen.qk_norm, qwen.tied) == (128, False, "head", False)
    assert (mistral.kv_heads, mistral.layer_windows) == (8, (4096,) * 4)
    assert read("mistral", num_attention_heads=8, sliding_window=None).layer_windows == (None,) * 4
    assert (olmo.norms, olmo.qk_norm, olmo.norm_eps, olmo.rope_theta) == ("after", "all", 1e-5, 1e4)
    gemma = FAMILIES["gemma3_text"].read_config({"num_hidden_layers": 7})  # a published one says no more than this
    assert (gemma.vocab_size, gemma.heads, gemma.kv_heads, gemma.head_dim) == (262_208, 8, 4, 256)
    assert gemma.layer_windows == (4096,) * 5 + (None, 4096) and gemma.attn_softcap is gemma.final_softcap is None
    assert gemma.layer_ropes == (Rope(1e4),) * 5 + (Rope(1e6), Rope(1e4))
    cohere, second = read("cohere"), read("cohere2")
    assert (cohere.rope_theta, cohere.logit_scale, cohere.norm_eps, cohere.tied) == (5e5, 0.0625, 1e-5, True)
    assert second.layer_windows == (4096,) * 3 + (None,) and second.layer_ropes == (Rope(1e4),) * 3 + (None,)


def test_both_spellings_of_two_rotary_embeddings_are_one_config():
    linear = {"rope_type": "linear", "factor": 8.0}
    sliding, full = {"rope_type": "default", "rope_theta": 3e4}, linear | {"rope_theta": 2e6}
    published = read("gemma3_text", rope_theta=2e6, rope_local_base_freq=3e4, rope_scaling=linear)
    newer = read("gemma3_text", rope_parameters={"sliding_attention": sliding, "full_attention": full})
    assert published == newer
    assert set(published.ropes) == {Rope(3e4)}, "the sixth layer is the first that sees everything"
    six = read("gemma3_text", num_hidden_layers=6, rope_theta=2e6, rope_local_base_freq=3e4, rope_scaling=linear)
    assert six.ropes[5] == Rope(2e6, LinearScaling(8.0))


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
        ({"model_type": "qwen3_moe"}, "qwen3_moe.*nearest type that is: qwen3; what is missing: mixtures of experts"),
        ({"model_type": "qwen4"}, r"qwen4.*nearest type that is: qwen3\)"),
        ({"model_type": "mistral3", "text_config": {"model_type": "ministral3"}}, "ministral3.*that is: mistral; .*YaRN"),
        ({"model_type": None}, "None, which is not supported: choose a model of type"),
        ({"model_type": "cohere", "use_qk_norm": True}, "use_qk_norm"),
        ({"model_type": "gemma3_text", "rope_parameters": {"rope_type": "default"}}, "those of 'full_attention' and of"),
    ],
)
def test_what_is_not_supported_is_a_sentence(tmp_path, keys, words):
    with pytest.raises(InputError, match=words):
        build(write(tmp_path, **keys))


def test_what_is_missing_is_told_of_types_that_are_not_ours():
    assert not MISSING.keys() & (FAMILIES.keys() | TEXT_OF.keys())
    assert {nearest for nearest, _ in MISSING.values()} <= FAMILIES.keys()
    assert {name for name, _ in TEXT_OF.values()} <= FAMILIES.keys()


def test_a_type_that_is_told_of_is_known_to_transformers():
    auto = pytest.importorskip("transformers.models.auto.configuration_auto", reason="needs transformers")
    assert (MISSING.keys() | TEXT_OF.keys() | FAMILIES.keys()) <= set(auto.CONFIG_MAPPING_NAMES)


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
