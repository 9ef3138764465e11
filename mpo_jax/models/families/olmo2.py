"""How is an OLMo 2 read into the decoder?"""

import dataclasses

from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.families import base, llama


def read_config(raw: base.RawConfig) -> DecoderConfig:
    """A Llama that is normed after attention and MLP only, and whose queries and keys are normalised over all heads together.
    Absent keys have the defaults of transformers' `Olmo2Config`."""
    config = llama.read_config({"rms_norm_eps": 1e-5} | raw)
    return dataclasses.replace(config, norms="after", qk_norm="all")


FAMILY = base.Family("olmo2", read_config)
