"""How is a SmolLM3 read into the decoder?"""

import dataclasses

from mpo_jax.errors import InputError
from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.families import base, llama


def read_config(raw: base.RawConfig) -> DecoderConfig:
    """A Llama in which, by default, every fourth layer has no positions. Absent keys have the defaults of transformers'
    `SmolLM3Config`."""
    base.only(raw, "use_sliding_window", False)
    given = {"rope_theta": 2e6, "tie_word_embeddings": True} | raw
    config = llama.read_config(given | {"num_key_value_heads": base.integer(raw, "num_key_value_heads", 4)})
    interval = base.integer(raw, "no_rope_layer_interval", 4)
    turns = raw.get("no_rope_layers") or [int(base.every(interval)(layer)) for layer in range(config.layers)]  # 1 = has positions
    if len(turns) != config.layers:
        raise InputError(
            f"config.json has 'no_rope_layers': {turns}, but it must have 0 or 1 for each of the {config.layers} layers."
        )
    ropes = tuple(rope if turn else None for rope, turn in zip(config.ropes, turns, strict=True))
    return dataclasses.replace(config, layer_ropes=ropes)


FAMILY = base.Family("smollm3", read_config)
