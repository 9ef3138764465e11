"""How is a Cohere model of the second kind read into the decoder? Command R7B, Command A."""

import dataclasses

from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.families import base, cohere


def read_config(raw: base.RawConfig) -> DecoderConfig:
    """As the first kind, but with windows: by default three layers of four have one and rotate, the fourth sees everything and
    has no positions. Absent keys have the defaults of transformers' `Cohere2Config`."""
    config = cohere.read_config({"rope_theta": 10_000.0} | raw)
    rule = base.every(base.integer(raw, "sliding_window_pattern", 4))
    windows = base.windows(raw, config.layers, base.integer(raw, "sliding_window", 4096), rule)
    ropes = tuple(rope if window is not None else None for rope, window in zip(config.ropes, windows, strict=True))
    return dataclasses.replace(config, layer_windows=windows, layer_ropes=ropes)


FAMILY = base.Family("cohere2", read_config)
