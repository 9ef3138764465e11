"""How is a Ministral (8B of 2024) read into the decoder?"""

import dataclasses

from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.families import base, mistral


def read_config(raw: base.RawConfig) -> DecoderConfig:
    """A Mistral that may list the layers that have its window. Absent keys have the defaults of transformers'
    `MinistralConfig`."""
    config = mistral.read_config(raw)
    return dataclasses.replace(config, layer_windows=base.windows(raw, config.layers, config.layer_windows[0], lambda _: True))


FAMILY = base.Family("ministral", read_config)
