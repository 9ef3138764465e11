"""An adapter's folder is PEFT's own: PEFT computes our logits with it, and we its; what we do not have is refused by name."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.checkpoints.peft_folder import (
    CONFIG,
    UNSUPPORTED,
    WEIGHTS,
    load_adapter,
    load_with_adapter,
    read_lora_config,
    save_adapter,
)
from mpo_jax.errors import InputError
from mpo_jax.models.adapters import LoraConfig, init_adapter, merged, prepared
from mpo_jax.models.families.registry import FAMILIES, build
from mpo_jax.models.parameters import joined
from mpo_jax.types import Packed


@pytest.fixture(scope="module")
def fixtures(request):
    return request.path.parent.parent / "fixtures"


def noisy(adapter):
    """As after some training: neither factor is zero."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.asarray(x + 0.1 * random.normal(size=x.shape), np.float32), jax.device_get(adapter))


def packed(tokens_ST):
    S, T = tokens_ST.shape
    ones, position = np.ones((S, T), np.int32), np.tile(np.arange(T, dtype=np.int32), (S, 1))
    return Packed(tokens_ST, position, ones, ones, *(np.zeros((S, 0), np.int32),) * 5)


def logits(model, params, tokens_ST):
    hidden_STD = model.hidden(params, packed(tokens_ST))
    logits_STV = jnp.einsum("STD,VD->STV", model.readout(hidden_STD), model.unembedding(params))
    cap = model.final_softcap
    return logits_STV if cap is None else cap * jnp.tanh(logits_STV / cap)


TOKENS = np.random.default_rng(1).integers(0, 96, (4, 12)).astype(np.int32)


@pytest.mark.parametrize("config", [LoraConfig(4, 8.0), LoraConfig(3, 3.0, "v_proj,down_proj", rslora=True)], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_saved_is_loaded(fixtures, tmp_path, name, config):
    family, model, _ = build(fixtures / name)
    on = tiny.mesh(2, 2, 2)
    adapter = noisy(init_adapter(model, config, 0, on))
    save_adapter(adapter, tmp_path / "out", model=model, family=family, config=config, base="some/model")
    found, loaded = load_adapter(tmp_path / "out", model, family, on)
    assert (found.rank, found.names, found.scale) == (config.rank, config.names, config.scale)
    jax.tree.map(np.testing.assert_array_equal, loaded, adapter)
    base = load_params(fixtures / name, model, family, on)
    with jax.set_mesh(on):
        expected = logits(model, joined(loaded, prepared(base, config)), TOKENS)
        with_it = load_with_adapter(fixtures / name, model, family, on, jnp.float32, tmp_path / "out")
        np.testing.assert_allclose(logits(model, with_it, TOKENS), expected, atol=1e-5)
        assert np.abs(expected - logits(model, base, TOKENS)).max() > 0.1


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_peft_computes_our_logits_with_our_folder(fixtures, tmp_path, name, rslora):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    config = LoraConfig(4, 8.0, rslora=rslora)
    family, model, _ = build(fixtures / name)
    on = tiny.mesh()
    adapter = noisy(init_adapter(model, config, 0, on))
    save_adapter(adapter, tmp_path / "out", model=model, family=family, config=config, base=str(fixtures / name))
    hf = AutoModelForCausalLM.from_pretrained(fixtures / name, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(hf, tmp_path / "out").eval()(torch.tensor(TOKENS).long()).logits.numpy()
    base = load_params(fixtures / name, model, family, on)
    policy = joined(adapter, prepared(base, config))
    np.testing.assert_allclose(logits(model, policy, TOKENS), theirs, atol=1e-5)
    np.testing.assert_allclose(logits(model, merged(policy), TOKENS), theirs, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_we_compute_pefts_logits_with_its_folder(fixtures, tmp_path, name):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_pretrained(fixtures / name, attn_implementation="eager", dtype=torch.float32)
    given = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "o_proj", "up_proj"], task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(hf, given).eval()
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if "lora_" in key:
                parameter.copy_(0.2 * torch.randn_like(parameter))
        expected = theirs(torch.tensor(TOKENS).long()).logits.numpy()
    theirs.save_pretrained(tmp_path)
    family, model, _ = build(fixtures / name)
    on = tiny.mesh()
    config, adapter = load_adapter(tmp_path, model, family, on)
    assert (config.rank, config.alpha, config.names) == (3, 5.0, ("q_proj", "o_proj", "up_proj"))
    policy = joined(adapter, prepared(load_params(fixtures / name, model, family, on), config))
    np.testing.assert_allclose(logits(model, policy, TOKENS), expected, atol=1e-5)


@pytest.fixture
def saved(fixtures, tmp_path):
    """(folder, family, model): a saved adapter of the llama fixture."""
    family, model, _ = build(fixtures / "llama")
    config = LoraConfig(2, 4.0, "q_proj")
    adapter = init_adapter(model, config, 0, tiny.mesh())
    save_adapter(adapter, tmp_path / "out", model=model, family=family, config=config, base="x")
    return tmp_path / "out", family, model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "IA3"}, "'peft_type': 'IA3': give an adapter of the kind 'LORA'"),
        ({"use_dora": True}, "'use_dora': True, which is not supported: merge this adapter with PEFT first"),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save'"),
        ({"target_modules": ["embed_tokens"]}, "'target_modules': ['embed_tokens']"),
        ({"target_modules": "all-linear"}, "'target_modules': 'all-linear'"),
        ({"target_modules": ".*proj"}, "'target_modules': '.*proj'"),
        ({"target_modules": ["q_proj", "lm_head"]}, "'target_modules': ['q_proj', 'lm_head']"),
        ({"bias": "lora_only"}, "'bias': 'lora_only'"),
        ({"rank_pattern": {"q_proj": 8}}, "'rank_pattern': {'q_proj': 8}"),
        ({"alpha_pattern": {"q_proj": 8}}, "'alpha_pattern': {'q_proj': 8}"),
        ({"layers_to_transform": [0]}, "'layers_to_transform': [0]"),
        ({"fan_in_fan_out": True}, "'fan_in_fan_out': True"),
        ({"trainable_token_indices": [1]}, "'trainable_token_indices': [1]"),
        ({"kasa_config": {"beta": 1e-4}}, "'kasa_config'"),
        ({"init_lora_weights": "pissa_niter_16"}, "'init_lora_weights': 'pissa_niter_16', which is not supported: merge"),
        ({"init_lora_weights": "loftq"}, "'init_lora_weights': 'loftq'"),
        ({"r": None}, "no usable 'r' and 'lora_alpha'"),
    ],
    ids=str,
)
def test_what_we_do_not_have_is_refused_by_its_name(saved, change, said):
    folder, *_ = saved
    given = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(given | change))
    with pytest.raises(InputError) as refused:
        read_lora_config(folder)
    assert said in str(refused.value)


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal"])
def test_how_the_first_factors_were_drawn_does_not_matter_where_the_base_stayed_as_it_was(saved, init):
    folder, *_ = saved
    given = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(given | {"init_lora_weights": init}))
    assert read_lora_config(folder) == LoraConfig(2, 4.0, "q_proj")


def test_every_setting_of_peft_is_read_or_refused_or_does_nothing_to_what_is_computed():
    """So that what a new version of PEFT adds is looked at."""
    peft = pytest.importorskip("peft")
    read = {"peft_type", "r", "lora_alpha", "use_rslora", "target_modules"}
    training = {
        "lora_dropout",
        "inference_mode",
        "runtime_config",
        "eva_config",
        "corda_config",
        "loftq_config",
        "lora_ga_config",
    }
    about = {"task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
    # these say more of settings that are refused themselves
    more = {"layers_pattern", "megatron_config", "megatron_core", "qalora_group_size", "ensure_weight_tying"}
    known = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert known <= read | training | about | more | UNSUPPORTED.keys(), "look at what PEFT has added"


def test_a_rank_above_what_a_projection_has_is_refused(saved):
    folder, family, model = saved
    given = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(given | {"r": 64}))
    with pytest.raises(InputError, match=r"lora\.rank=64 is no low rank for q_proj"):
        load_adapter(folder, model, family, tiny.mesh())


def damaged(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(FIRST), f"has no tensor {FIRST}"),
        (lambda t: t.update({FIRST: np.zeros((2, 5), np.float32)}), "has the shape (2, 5), which does not fit this model"),
        (lambda t: t.update({"other": np.zeros(2, np.float32)}), "has the tensor other, which this model has no place for"),
        (lambda t: t.update({FIRST: np.full((2, 32), np.nan, np.float32)}), "values that are not finite"),
    ],
    ids=["absent", "shape", "too many", "nan"],
)
def test_an_adapter_of_another_model_is_named(saved, change, said):
    folder, family, model = saved
    damaged(folder, change)
    with pytest.raises(InputError) as refused:
        load_adapter(folder, model, family, tiny.mesh())
    assert said in str(refused.value)


def test_a_folder_without_an_adapter_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="give the folder of an adapter that PEFT saved"):
        read_lora_config(tmp_path)
