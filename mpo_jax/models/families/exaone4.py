"""How is an EXAONE 4 read into the decoder?"""

import dataclasses

from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.families import base, llama


def read_config(raw: base.RawConfig) -> DecoderConfig:
    """A Llama that is normed after attention and MLP only, and whose queries and keys are normalised. Some have windows: then the
    other layers have no positions. Absent keys have the defaults of transformers' `Exaone4Config`."""
    config = llama.read_config({"rms_norm_eps": 1e-5} | raw)
    config = dataclasses.replace(config, norms="after", qk_norm="head")
    if raw.get("sliding_window", 4096) is None:
        return config
    rule = base.every(base.integer(raw, "sliding_window_pattern", 4))
    windows = base.windows(raw, config.layers, base.integer(raw, "sliding_window", 4096), rule)
    ropes = tuple(rope if window is not None else None for rope, window in zip(config.ropes, windows, strict=True))
    return dataclasses.replace(config, layer_windows=windows, layer_ropes=ropes)


FAMILY = base.Family("exaone4", read_config)
