"""How is a Gemma 2 read into the decoder?"""

from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.families import base
from mpo_jax.types import ChatFormat


def read_config(raw: base.RawConfig) -> DecoderConfig:
    """Absent keys have the defaults of transformers' `Gemma2Config`; `hidden_activation` takes precedence over `hidden_act`."""
    base.only(raw, "attention_bias", False)
    base.only(raw, "use_bidirectional_attention", False)
    layers, width = base.integer(raw, "num_hidden_layers"), base.integer(raw, "hidden_size")
    heads, kv_heads, head_dim = base.heads(raw, default_kv_heads=4, default_head_dim=256)
    rope = base.one_rope(raw)
    return DecoderConfig(
        vocab_size=base.integer(raw, "vocab_size"),
        hidden_size=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=base.integer(raw, "intermediate_size"),
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        norm_offset=1,
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        query_scale=raw.get("query_pre_attn_scalar", 256) ** -0.5,
        layer_windows=base.windows(raw, layers, base.integer(raw, "sliding_window", 4096), lambda layer: layer % 2 == 0),
        attn_softcap=raw.get("attn_logit_softcapping", 50.0),
        final_softcap=raw.get("final_logit_softcapping", 30.0),
        norms="both",
        embed_scale=width**0.5,
        activation=base.activation(raw.get("hidden_activation") or raw.get("hidden_act") or "gelu_pytorch_tanh"),
        tied=raw.get("tie_word_embeddings", True),
    )


FAMILY = base.Family(
    model_type="gemma2",
    read_config=read_config,
    authors_chat=ChatFormat(
        before="<bos><start_of_turn>user\n",
        between="<end_of_turn>\n<start_of_turn>model\n",
        end="<eos>",
        special_tokens=("<bos>", "<start_of_turn>", "<end_of_turn>", "<eos>"),
    ),
)
