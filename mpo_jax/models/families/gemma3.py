"""How is a Gemma 3 read into the decoder? Its text model, with or without the vision model beside it."""

import dataclasses

from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.families import base, gemma2


def read_config(raw: base.RawConfig) -> DecoderConfig:
    """A Gemma 2 without soft-caps, whose queries and keys are normalised and whose layers with a window, by default five of six,
    have a rotary embedding of their own. Absent keys have the defaults of transformers' `Gemma3TextConfig`."""
    layers = base.integer(raw, "num_hidden_layers", 26)
    raw = {
        "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": layers,
        "num_attention_heads": 8, "attn_logit_softcapping": None, "final_logit_softcapping": None,
    } | raw  # fmt: skip
    types = base.layer_types(raw, layers, base.every(base.integer(raw, "sliding_window_pattern", 6)))
    ropes = base.two_ropes(raw, full=1e6, sliding=1e4)
    flat = {key: value for key, value in raw.items() if key not in ("rope_parameters", "rope_scaling")}
    config = gemma2.read_config(flat | {"layer_types": list(types), "rope_theta": ropes[base.FULL].theta})
    return dataclasses.replace(config, qk_norm="head", layer_ropes=tuple(ropes[kind] for kind in types))


FAMILY = base.Family("gemma3_text", read_config)
