"""How is a Qwen3 read into the decoder?"""

import dataclasses

from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.families import base, qwen2


def read_config(raw: base.RawConfig) -> DecoderConfig:
    """A Qwen2 without biases, whose queries and keys are normalised. Absent keys have the defaults of transformers'
    `Qwen3Config`."""
    base.only(raw, "attention_bias", False)
    head_dim = base.integer(raw, "head_dim", 128)
    return dataclasses.replace(qwen2.read_config(raw | {"head_dim": head_dim}), qkv_bias=False, qk_norm="head")


FAMILY = base.Family("qwen3", read_config)
