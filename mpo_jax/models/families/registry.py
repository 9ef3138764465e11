"""Which family does a checkpoint belong to? Its `model_type` decides."""

import json
from pathlib import Path

from mpo_jax.errors import InputError
from mpo_jax.files.paths import path_of
from mpo_jax.models.decoder import Model
from mpo_jax.models.families import cohere, cohere2, gemma2, gemma3, llama, mistral, olmo2, qwen2, qwen3
from mpo_jax.models.families.base import Family, RawConfig, only

_MODULES = (llama, gemma2, qwen2, qwen3, gemma3, mistral, cohere, cohere2, olmo2)
FAMILIES: dict[str, Family] = {module.FAMILY.model_type: module.FAMILY for module in _MODULES}


def build(hf_dir: Path | str, *, remat: str = "full") -> tuple[Family, Model, RawConfig]:
    """The family, the model and the parsed config.json of a folder in Hugging Face's layout.

    Errors: a missing or broken config.json, an unknown `model_type`, something that the decoder cannot do.
    """
    path = path_of(hf_dir) / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): give a folder in Hugging Face's layout.") from None
    if not isinstance(raw, dict) or raw.get("model_type") not in FAMILIES:
        found = raw.get("model_type") if isinstance(raw, dict) else raw
        raise InputError(
            f"{path} has 'model_type': {found!r}, which is not supported: choose a model of type {', '.join(FAMILIES)}."
        )
    family = FAMILIES[raw["model_type"]]
    try:
        only(raw, "quantization_config", None)
        config = family.read_config(raw)
    except InputError as error:
        raise InputError(f"{path.parent}: {error}") from None
    return family, Model(config, remat), raw
