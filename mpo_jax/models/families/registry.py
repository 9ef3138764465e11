"""Which family does a checkpoint belong to? Its `model_type` decides."""

import difflib
import json
from pathlib import Path
from typing import Any

from mpo_jax.errors import InputError
from mpo_jax.files.paths import path_of
from mpo_jax.models.decoder import Model
from mpo_jax.models.families import (
    cohere,
    cohere2,
    exaone4,
    gemma2,
    gemma3,
    llama,
    ministral,
    mistral,
    olmo2,
    qwen2,
    qwen3,
    seed_oss,
    smollm3,
)
from mpo_jax.models.families.base import Family, RawConfig, only

_MODULES = (llama, gemma2, qwen2, qwen3, gemma3, mistral, ministral, cohere, cohere2, olmo2, exaone4, smollm3, seed_oss)
FAMILIES: dict[str, Family] = {module.FAMILY.model_type: module.FAMILY for module in _MODULES}

# Models with text and images whose text model is, or may be, one of ours: its `model_type`, and its class in transformers.
TEXT_OF = {"gemma3": ("gemma3_text", "Gemma3ForCausalLM"), "mistral3": ("mistral", "MistralForCausalLM")}

# What such a model's config.json says for its text model too.
OF_BOTH = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "torch_dtype", "dtype", "transformers_version",
           "quantization_config")  # fmt: skip

EXPERTS, HYBRID, UNGATED = "mixtures of experts", "layers that are no attention", "an MLP without a gate"
# What the decoder lacks for models that have been asked for.
MISSING = {
    "bloom": ("llama", UNGATED),
    "cohere2_moe": ("cohere2", EXPERTS),
    "deepseek_v3": ("llama", f"{EXPERTS} and attention over compressed keys"),
    "apertus": ("llama", UNGATED),
    "arcee": ("llama", UNGATED),
    "falcon": ("llama", UNGATED),
    "falcon_h1": ("llama", HYBRID),
    "gemma3n": ("gemma3_text", "embeddings per layer, and states of several widths"),
    "gemma4": ("gemma3_text", "embeddings per layer, and layers that share their keys"),
    "gpt_oss": ("llama", f"{EXPERTS} and attention sinks"),
    "glm4": ("llama", "rotations of a part of each head"),
    "granite": ("llama", "factors of embeddings and branches"),
    "granitemoehybrid": ("llama", f"{EXPERTS} and {HYBRID}"),
    "lfm2": ("llama", HYBRID),
    "hunyuan_v1_dense": ("qwen3", "queries and keys that are normalised after they are rotated"),
    "llama4": ("llama", EXPERTS),
    "ministral3": ("mistral", "YaRN, and a temperature that grows with the position"),
    "mixtral": ("mistral", EXPERTS),
    "nemotron": ("llama", UNGATED),
    "nemotron_h": ("llama", HYBRID),
    "olmo3": ("olmo2", "YaRN"),
    "olmoe": ("olmo2", EXPERTS),
    "phi3": ("llama", "projections in one tensor, and rotations of a part of each head"),
    "phimoe": ("llama", EXPERTS),
    "qwen2_moe": ("qwen2", EXPERTS),
    "qwen3_5": ("qwen3", HYBRID),
    "qwen3_5_moe": ("qwen3", f"{EXPERTS} and {HYBRID}"),
    "qwen3_moe": ("qwen3", EXPERTS),
    "qwen3_next": ("qwen3", f"{EXPERTS} and {HYBRID}"),
    "starcoder2": ("llama", UNGATED),
}


def build(hf_dir: Path | str, *, remat: str = "full", logits: str = "recompute") -> tuple[Family, Model, RawConfig]:
    """The family, the model and the config.json of a folder in Hugging Face's layout; of a model with text and images, those of
    its text model.

    Errors: a missing or broken config.json, an unknown `model_type`, something that the decoder cannot do.
    """
    path = path_of(hf_dir) / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): give a folder in Hugging Face's layout.") from None
    try:
        raw = text_config(raw)
        family = FAMILIES[raw["model_type"]]
        only(raw, "quantization_config", None)
        config = family.read_config(raw)
    except InputError as error:
        raise InputError(f"{path.parent}: {error}") from None
    return family, Model(config, remat, logits), raw


def text_config(raw: Any) -> RawConfig:
    """A config.json of one of our families; of a model with text and images, that of its text model by itself.

    Errors: an unknown `model_type`, with what is nearest to it."""
    kind = raw.get("model_type") if isinstance(raw, dict) else raw
    if kind in TEXT_OF:
        name, architecture = TEXT_OF[kind]
        if not isinstance(raw.get("text_config"), dict):
            raise InputError(f"config.json has 'model_type': {kind!r}, but no 'text_config': use the published config.json.")
        text = {"model_type": name} | raw["text_config"]
        kind = text["model_type"]
        raw = text | {key: raw[key] for key in OF_BOTH if key in raw} | {"architectures": [architecture]}
    if kind not in FAMILIES:
        raise InputError(
            f"config.json has 'model_type': {kind!r}, which is not supported{_nearest(kind)}: choose a model of type "
            f"{', '.join((*FAMILIES, *TEXT_OF))}."
        )
    return raw


def _nearest(kind: Any) -> str:
    if kind in MISSING:
        nearest, missing = MISSING[kind]
        return f" (the nearest type that is: {nearest}; what is missing: {missing})"
    close = difflib.get_close_matches(str(kind), FAMILIES, n=1)
    return f" (the nearest type that is: {close[0]})" if close else ""
