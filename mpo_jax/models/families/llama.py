"""How is a Llama (2, 3, 3.1) read into the decoder?"""

from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.families import base
from mpo_jax.types import ChatFormat


def read_config(raw: base.RawConfig) -> DecoderConfig:
    """Absent keys have the defaults of transformers' `LlamaConfig`."""
    base.only(raw, "attention_bias", False)
    base.only(raw, "mlp_bias", False)
    layers = base.integer(raw, "num_hidden_layers")
    heads, kv_heads, head_dim = base.heads(raw)
    rope = base.one_rope(raw)
    return DecoderConfig(
        vocab_size=base.integer(raw, "vocab_size"),
        hidden_size=base.integer(raw, "hidden_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=base.integer(raw, "intermediate_size"),
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        query_scale=head_dim**-0.5,
        layer_windows=(None,) * layers,
        activation=base.activation(raw.get("hidden_act", "silu")),
        tied=raw.get("tie_word_embeddings", False),
    )


FAMILY = base.Family(
    model_type="llama",
    read_config=read_config,
    authors_chat=ChatFormat(
        before="<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
        between="<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        end="<|eot_id|>",
        special_tokens=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
)
