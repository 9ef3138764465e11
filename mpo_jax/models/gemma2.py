"""How is a Gemma 2 read into the decoder?"""

from mpo_jax.models import family
from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.weights import Weight
from mpo_jax.types import ChatFormat

OWN_WEIGHTS = (
    Weight("layers.attention_post_norm", "model.layers.{layer}.post_attention_layernorm.weight", "norm"),
    Weight("layers.mlp_norm", "model.layers.{layer}.pre_feedforward_layernorm.weight", "norm"),
    Weight("layers.mlp_post_norm", "model.layers.{layer}.post_feedforward_layernorm.weight", "norm"),
)


def read_config(raw: family.RawConfig) -> DecoderConfig:
    """Defaults of absent keys are those of transformers' `Gemma2Config`; `hidden_activation` goes before `hidden_act`."""
    family.only(raw, "attention_bias", False)
    family.only(raw, "use_bidirectional_attention", False)
    layers, width = family.integer(raw, "num_hidden_layers"), family.integer(raw, "hidden_size")
    heads, kv_heads, head_dim = family.heads(raw, default_kv_heads=4, default_head_dim=256)
    theta, scaling = family.rope(raw)
    return DecoderConfig(
        vocab_size=family.integer(raw, "vocab_size"),
        hidden_size=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=family.integer(raw, "intermediate_size"),
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        norm_offset=1,
        rope_theta=theta,
        rope_scaling=scaling,
        query_scale=raw.get("query_pre_attn_scalar", 256) ** -0.5,
        layer_windows=family.windows(raw, layers, family.integer(raw, "sliding_window", 4096), lambda layer: layer % 2 == 0),
        attn_softcap=raw.get("attn_logit_softcapping", 50.0),
        final_softcap=raw.get("final_logit_softcapping", 30.0),
        post_norms=True,
        embed_scale=width**0.5,
        activation=family.activation(raw.get("hidden_activation") or raw.get("hidden_act") or "gelu_pytorch_tanh"),
        tied=raw.get("tie_word_embeddings", True),
    )


def weights(config: DecoderConfig) -> tuple[Weight, ...]:
    return (*family.SHARED_WEIGHTS, *OWN_WEIGHTS, *(() if config.tied else family.UNEMBEDDING))


FAMILY = family.Family(
    model_type="gemma2",
    read_config=read_config,
    weights=weights,
    chat=ChatFormat(
        before="<bos><start_of_turn>user\n",
        between="<end_of_turn>\n<start_of_turn>model\n",
        end="<eos>",
    ),
)
