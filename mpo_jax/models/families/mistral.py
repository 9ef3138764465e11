"""How is a Mistral read into the decoder?"""

import dataclasses

from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.families import base, llama


def read_config(raw: base.RawConfig) -> DecoderConfig:
    """A Llama that may have one window in all layers. Absent keys have the defaults of transformers' `MistralConfig`; 'null' for
    `sliding_window` means none, and its absence 4096."""
    config = llama.read_config(raw | {"num_key_value_heads": base.integer(raw, "num_key_value_heads", 8)})
    window = None if raw.get("sliding_window", 4096) is None else base.integer(raw, "sliding_window", 4096)
    return dataclasses.replace(config, layer_windows=(window,) * config.layers)


FAMILY = base.Family("mistral", read_config)
