"""How is a Qwen2 or Qwen2.5 read into the decoder?"""

from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.families import base
from mpo_jax.types import ChatFormat


def read_config(raw: base.RawConfig) -> DecoderConfig:
    """Absent keys have the defaults of transformers' `Qwen2Config`."""
    layers = base.integer(raw, "num_hidden_layers")
    heads, kv_heads, head_dim = base.heads(raw, default_kv_heads=32)
    window = base.integer(raw, "sliding_window", 4096) if raw.get("use_sliding_window") else None
    first_sliding = raw.get("max_window_layers", 28)
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
        layer_windows=base.windows(raw, layers, window, lambda layer: layer >= first_sliding),
        qkv_bias=True,
        activation=base.activation(raw.get("hidden_act", "silu")),
        tied=raw.get("tie_word_embeddings", False),
    )


FAMILY = base.Family(
    model_type="qwen2",
    read_config=read_config,
    authors_chat=ChatFormat(
        before=(
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n"
        ),
        between="<|im_end|>\n<|im_start|>assistant\n",
        end="<|im_end|>",
        special_tokens=("<|im_start|>", "<|im_end|>"),
    ),
)
