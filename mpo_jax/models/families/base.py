"""What is a model family? A reader of its config.json, and the chat format of MPO's authors.

This file also has the parts of readers that the families share, and the table of weights, which follows from what is read.
Readers accept the published spelling of a config.json and that of transformers 5; a key that asks for something the decoder
cannot do is an error that names the key.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from mpo_jax.errors import InputError
from mpo_jax.models.decoder import DecoderConfig, Norms
from mpo_jax.models.layers import Activation, LinearScaling, Llama3Scaling, QueryKeyNorm, Rope
from mpo_jax.models.weight_table import Weight
from mpo_jax.types import ChatFormat

RawConfig = dict[str, Any]  # a parsed config.json


# The names that Hugging Face's decoders share.
ATTENTION_NORM = Weight("layers.attention_norm", "model.layers.{layer}.input_layernorm.weight", "norm")
PROJECTIONS = (
    Weight("layers.attention.q", "model.layers.{layer}.self_attn.q_proj.weight", "(heads head_dim) embed"),
    Weight("layers.attention.k", "model.layers.{layer}.self_attn.k_proj.weight", "(kv_heads head_dim) embed"),
    Weight("layers.attention.v", "model.layers.{layer}.self_attn.v_proj.weight", "(kv_heads head_dim) embed"),
    Weight("layers.attention.o", "model.layers.{layer}.self_attn.o_proj.weight", "embed (heads head_dim)"),
    Weight("layers.mlp.gate", "model.layers.{layer}.mlp.gate_proj.weight", "mlp embed"),
    Weight("layers.mlp.up", "model.layers.{layer}.mlp.up_proj.weight", "mlp embed"),
    Weight("layers.mlp.down", "model.layers.{layer}.mlp.down_proj.weight", "embed mlp"),
)
AFTER = (
    Weight("layers.attention_post_norm", "model.layers.{layer}.post_attention_layernorm.weight", "norm"),
    Weight("layers.mlp_post_norm", "model.layers.{layer}.post_feedforward_layernorm.weight", "norm"),
)
OTHER_NORMS: dict[Norms, tuple[Weight, ...]] = {
    # "post attention" is before the MLP here, and in the others after the attention.
    "before": (Weight("layers.mlp_norm", "model.layers.{layer}.post_attention_layernorm.weight", "norm"),),
    "after": AFTER,
    "both": (
        AFTER[0],
        Weight("layers.mlp_norm", "model.layers.{layer}.pre_feedforward_layernorm.weight", "norm"),
        AFTER[1],
    ),
    "parallel": (),
}
BIASES = (
    Weight("layers.attention.q_bias", "model.layers.{layer}.self_attn.q_proj.bias", "(heads head_dim)"),
    Weight("layers.attention.k_bias", "model.layers.{layer}.self_attn.k_proj.bias", "(kv_heads head_dim)"),
    Weight("layers.attention.v_bias", "model.layers.{layer}.self_attn.v_proj.bias", "(kv_heads head_dim)"),
)
QUERY_KEY_NORMS: dict[QueryKeyNorm | None, tuple[Weight, ...]] = {
    None: (),
    "head": (
        Weight("layers.attention.q_norm", "model.layers.{layer}.self_attn.q_norm.weight", "head_dim"),
        Weight("layers.attention.k_norm", "model.layers.{layer}.self_attn.k_norm.weight", "head_dim"),
    ),
    "all": (
        Weight("layers.attention.q_norm", "model.layers.{layer}.self_attn.q_norm.weight", "(heads head_dim)"),
        Weight("layers.attention.k_norm", "model.layers.{layer}.self_attn.k_norm.weight", "(kv_heads head_dim)"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Family:
    """Everything that the library knows about one `model_type`."""

    model_type: str
    read_config: Callable[[RawConfig], DecoderConfig]
    authors_chat: ChatFormat | None = None  # what the method's published code trains with; None where its authors trained none

    def weights(self, config: DecoderConfig) -> tuple[Weight, ...]:
        """The tensors of a checkpoint, which follow from its config alone."""
        return (
            Weight("embedding", "model.embed_tokens.weight", "vocab embed"),
            *(() if config.norms == "after" else (ATTENTION_NORM,)),
            *PROJECTIONS,
            Weight("final_norm", "model.norm.weight", "norm"),
            *OTHER_NORMS[config.norms],
            *(BIASES if config.qkv_bias else ()),
            *QUERY_KEY_NORMS[config.qk_norm],
            *(() if config.tied else (Weight("unembedding", "lm_head.weight", "vocab embed"),)),
        )


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


def rope(given: RawConfig, theta: float) -> Rope:
    """A rotary embedding from the keys of `rope_scaling` or of `rope_parameters`; `theta` where they do not have it."""
    kind = given.get("rope_type", given.get("type", "default"))
    scalings = {"default": None, "linear": LinearScaling, "llama3": Llama3Scaling}
    if any(isinstance(value, dict) for value in given.values()) or kind not in scalings:
        raise InputError(
            f"config.json has the rotary embedding {given}, which is not supported: choose a model with one of "
            f"{', '.join(map(repr, scalings))}."
        )
    only(given, "partial_rotary_factor", 1.0)
    theta, scaling = float(given.get("rope_theta", theta)), scalings[kind]
    if scaling is None:
        return Rope(theta)
    fields = [field.name for field in dataclasses.fields(scaling)]
    if missing := [name for name in fields if name not in given]:
        raise InputError(f"config.json has a {kind!r} rotary embedding without {missing}: use the published config.json.")
    return Rope(theta, scaling(*(given[name] for name in fields)))


def one_rope(raw: RawConfig, theta: float = 10_000.0) -> Rope:
    """That of all layers, from `rope_theta` and `rope_scaling`, or from `rope_parameters` that holds both; `theta` is the
    family's default."""
    only(raw, "partial_rotary_factor", 1.0)
    return rope(raw.get("rope_scaling") or raw.get("rope_parameters") or {}, raw.get("rope_theta") or theta)


def two_ropes(raw: RawConfig, *, full: float, sliding: float) -> dict[str, Rope]:
    """Those of layers that see everything and of layers with a window, from `rope_parameters` of both, or from `rope_theta` and
    `rope_scaling` of the first and `rope_local_base_freq` of the second; `full` and `sliding` are the family's defaults."""
    only(raw, "partial_rotary_factor", 1.0)
    given = raw.get("rope_parameters") or {}
    if set(given) - {FULL, SLIDING}:
        raise InputError(f"config.json has 'rope_parameters': {given}, but this model has those of '{FULL}' and of '{SLIDING}'.")
    return {
        FULL: rope(given.get(FULL) or raw.get("rope_scaling") or {}, raw.get("rope_theta") or full),
        SLIDING: rope(given.get(SLIDING) or {}, raw.get("rope_local_base_freq") or sliding),
    }


FULL, SLIDING = "full_attention", "sliding_attention"


def layer_types(raw: RawConfig, layers: int, sliding: Callable[[int], bool]) -> tuple[str, ...]:
    """Whether a layer has a window: by `layer_types` when the config lists them, otherwise by the family's rule
    `sliding(layer)`."""
    types = raw.get("layer_types") or [SLIDING if sliding(layer) else FULL for layer in range(layers)]
    if len(types) != layers or set(types) - {SLIDING, FULL}:
        raise InputError(
            f"config.json has 'layer_types': {types}, but it must name '{SLIDING}' or '{FULL}' for each of the {layers} layers."
        )
    return tuple(types)


def every(n: int) -> Callable[[int], bool]:
    """The rule by which each n-th layer sees everything and the others have a window."""
    return lambda layer: (layer + 1) % n > 0


def windows(raw: RawConfig, layers: int, window: int | None, sliding: Callable[[int], bool]) -> tuple[int | None, ...]:
    """The window of each layer, by its `layer_types`."""
    return tuple(window if kind == SLIDING else None for kind in layer_types(raw, layers, sliding))


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
    kept = {key: value for key, value in raw.items() if key not in ("rope_parameters", "dtype")}
    given = raw.get("rope_parameters") or {}
    legacy: RawConfig = {"torch_dtype": dtype}
    if SLIDING in given and "rope_theta" in (local := given[SLIDING] or {}):
        legacy["rope_local_base_freq"] = local["rope_theta"]
    shared = given.get(FULL) or {} if FULL in given or SLIDING in given else given
    scaling = {key: value for key, value in shared.items() if key != "rope_theta"}
    if "rope_theta" in shared:
        legacy["rope_theta"] = float(shared["rope_theta"])
    if not raw.get("rope_scaling") and scaling.get("rope_type", scaling.get("type", "default")) != "default":
        legacy["rope_scaling"] = scaling
    return kept | legacy
