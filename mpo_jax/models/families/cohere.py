"""How is a Cohere model of the first kind read into the decoder? Aya Expanse, Command R."""

import dataclasses

from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.families import base, llama


def read_config(raw: base.RawConfig) -> DecoderConfig:
    """Attention and MLP side by side after one LayerNorm, interleaved rotations, scaled logits. Absent keys have the defaults of
    transformers' `CohereConfig`."""
    base.only(raw, "use_qk_norm", False)
    base.only(raw, "layer_norm_bias", False)
    given = {"rope_theta": 500_000.0, "tie_word_embeddings": True} | raw
    config = llama.read_config(given | {"rms_norm_eps": raw.get("layer_norm_eps", 1e-5)})
    return dataclasses.replace(
        config, norm="layer", norms="parallel", rope_interleaved=True, logit_scale=float(raw.get("logit_scale", 0.0625))
    )


FAMILY = base.Family("cohere", read_config)
