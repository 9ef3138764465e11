"""How is a Seed-OSS read into the decoder?"""

import dataclasses

from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.families import base, llama


def read_config(raw: base.RawConfig) -> DecoderConfig:
    """A Llama with biases of query, key and value. Absent keys have the defaults of transformers' `SeedOssConfig`."""
    base.only(raw, "attention_bias", True)
    base.only(raw, "attention_out_bias", False)
    own = {
        "attention_bias": False,
        "head_dim": base.integer(raw, "head_dim", 128),
        "num_key_value_heads": base.integer(raw, "num_key_value_heads", 8),
    }
    return dataclasses.replace(llama.read_config(raw | own), qkv_bias=True)


FAMILY = base.Family("seed_oss", read_config)
