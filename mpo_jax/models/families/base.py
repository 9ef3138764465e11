"""What is a model family? A reader of its config.json, a table of its weights, and the chat format of MPO's authors.

This file also has the parts of readers and tables that the families share. Readers accept the published spelling of a config.json
and that of transformers 5; a key that asks for something the decoder cannot do is an error that names the key.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from mpo_jax.errors import InputError
from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.layers import Activation, Llama3Scaling
from mpo_jax.models.weight_table import Weight
from mpo_jax.types import ChatFormat

RawConfig = dict[str, Any]  # a parsed config.json


@dataclasses.dataclass(frozen=True)
class Family:
    """Everything that the library knows about one `model_type`."""

    model_type: str
    read_config: Callable[[RawConfig], DecoderConfig]
    weights: Callable[[DecoderConfig], tuple[Weight, ...]]
    authors_chat: ChatFormat | None  # what the method's published code trains with; None where its authors trained no such model


SHARED_WEIGHTS = (
    Weight("embedding", "model.embed_tokens.weight", "vocab embed"),
    Weight("layers.attention_norm", "model.layers.{layer}.input_layernorm.weight", "norm"),
    Weight("layers.attention.q", "model.layers.{layer}.self_attn.q_proj.weight", "(heads head_dim) embed"),
    Weight("layers.attention.k", "model.layers.{layer}.self_attn.k_proj.weight", "(kv_heads head_dim) embed"),
    Weight("layers.attention.v", "model.layers.{layer}.self_attn.v_proj.weight", "(kv_heads head_dim) embed"),
    Weight("layers.attention.o", "model.layers.{layer}.self_attn.o_proj.weight", "embed (heads head_dim)"),
    Weight("layers.mlp.gate", "model.layers.{layer}.mlp.gate_proj.weight", "mlp embed"),
    Weight("layers.mlp.up", "model.layers.{layer}.mlp.up_proj.weight", "mlp embed"),
    Weight("layers.mlp.down", "model.layers.{layer}.mlp.down_proj.weight", "embed mlp"),
    Weight("final_norm", "model.norm.weight", "norm"),
)
UNEMBEDDING = (Weight("unembedding", "lm_head.weight", "vocab embed"),)  # absent from a tied checkpoint


def integer(raw: RawConfig, key: str, default: int | None = None) -> int:
    """A count; without a default the key is required."""
    value = raw.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or value < 1:
        raise InputError(f"config.json has {key!r}: {value!r}, but it must be an integer above 0: use the published config.json.")
    return value


def only(raw: RawConfig, key: str, supported: Any) -> None:
    """Refuses a key with another value than `supported`, which is also its default."""
    if raw.get(key) not in (None, supported):
        raise InputError(f"config.json has {key!r}: {raw[key]!r}, which is not supported: choose a model with {supported!r}.")


def activation(name: str) -> Activation:
    names: dict[str, Activation] = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
    if name not in names:
        raise InputError(
            f"config.json has the activation {name!r}, which is not supported: choose a model with one of {', '.join(names)}."
        )
    return names[name]


def rope(raw: RawConfig) -> tuple[float, Llama3Scaling | None]:
    """(theta, scaling) from `rope_theta` and `rope_scaling`, or from `rope_parameters` that holds both."""
    given = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    theta = given.get("rope_theta", raw.get("rope_theta", 10_000.0))
    kind = given.get("rope_type", given.get("type", "default"))
    if any(isinstance(value, dict) for value in given.values()) or kind not in ("default", "llama3"):
        raise InputError(
            f"config.json has the rotary embedding {given}, which is not supported: choose a model with 'default' or 'llama3'."
        )
    only(given, "partial_rotary_factor", 1.0)
    only(raw, "partial_rotary_factor", 1.0)
    if kind == "default":
        return float(theta), None
    fields = [field.name for field in dataclasses.fields(Llama3Scaling)]
    if missing := [name for name in fields if name not in given]:
        raise InputError(f"config.json has a 'llama3' rotary embedding without {missing}: use the published config.json.")
    return float(theta), Llama3Scaling(*(given[name] for name in fields))


def windows(raw: RawConfig, layers: int, window: int | None, sliding: Callable[[int], bool]) -> tuple[int | None, ...]:
    """The window of each layer: by `layer_types` when the config lists them, otherwise by the family's rule `sliding(layer)`."""
    types = raw.get("layer_types") or ["sliding_attention" if sliding(layer) else "full_attention" for layer in range(layers)]
    if len(types) != layers or set(types) - {"sliding_attention", "full_attention"}:
        raise InputError(
            f"config.json has 'layer_types': {types}, but it must name 'sliding_attention' or 'full_attention' for each of the "
            f"{layers} layers."
        )
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def heads(raw: RawConfig, *, default_kv_heads: int | None = None, default_head_dim: int | None = None) -> tuple[int, int, int]:
    """(heads, kv_heads, head_dim); absent ones are `heads` and hidden_size / heads, or the family's default."""
    n, width = integer(raw, "num_attention_heads"), integer(raw, "hidden_size")
    kv_heads = integer(raw, "num_key_value_heads", default_kv_heads or n)
    if n % kv_heads:
        raise InputError(
            f"config.json has 'num_attention_heads': {n}, which is not a multiple of 'num_key_value_heads': {kv_heads}: use the "
            "published config.json."
        )
    return n, kv_heads, integer(raw, "head_dim", default_head_dim or width // n)


def write_config(raw: RawConfig, dtype: str) -> RawConfig:
    """The original config.json with the dtype of the exported weights, in the spelling that every version of transformers
    reads."""
    theta, scaling = rope(raw)
    kept = {k: v for k, v in raw.items() if k not in ("rope_parameters", "rope_scaling", "dtype")}
    legacy = {"rope_theta": theta, "torch_dtype": dtype}
    if scaling is not None:
        legacy["rope_scaling"] = {"rope_type": "llama3", **dataclasses.asdict(scaling)}
    return kept | legacy
