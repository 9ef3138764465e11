"""Tiny random models of every family as transformers builds them, and what transformers writes with them. Needs torch."""

import numpy as np
import torch
import transformers as tf

torch.set_num_threads(1)  # tests run side by side


SLIDING, FULL = "sliding_attention", "full_attention"
FAMILIES = (
    "llama",
    "gemma2",
    "qwen2",
    "qwen3",
    "gemma3_text",
    "mistral",
    "ministral",
    "cohere",
    "cohere2",
    "olmo2",
    "exaone4",
    "smollm3",
    "seed_oss",
)


def config(name: str, tied: bool, **changes):
    """Tiny, and different from its family's defaults wherever that can show; `changes` are keys of the config."""
    common = dict(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, pad_token_id=None, attn_implementation="eager", tie_word_embeddings=tied,
    ) | changes  # fmt: skip
    layers = common["num_hidden_layers"]
    llama3 = dict(rope_type="llama3", rope_theta=1e4, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    default = dict(rope_type="default", rope_theta=2e4)
    gemma = dict(head_dim=12, query_pre_attn_scalar=20, sliding_window=8)
    match name:
        case "llama":
            return tf.LlamaConfig(**common, rope_parameters=llama3 | dict(original_max_position_embeddings=32))
        case "gemma2":
            return tf.Gemma2Config(**gemma | dict(attn_logit_softcapping=2.0, final_logit_softcapping=4.0) | common)
        case "gemma3_text":
            ropes = {SLIDING: default, FULL: dict(rope_type="linear", factor=8.0, rope_theta=1e6)}
            return tf.Gemma3TextConfig(**gemma | common, rope_parameters=ropes, layer_types=mostly(SLIDING, FULL, layers))
        case "qwen3":
            return tf.Qwen3Config(**dict(head_dim=12) | common, rope_parameters=default)
        case "mistral":
            return tf.MistralConfig(**dict(head_dim=12, sliding_window=8) | common, rope_parameters=default)
        case "cohere":
            return tf.CohereConfig(**common, rope_parameters=default, logit_scale=0.3)
        case "cohere2":
            types = mostly(SLIDING, FULL, layers)
            return tf.Cohere2Config(
                **dict(sliding_window=8) | common, rope_parameters=default, logit_scale=0.3, layer_types=types
            )
        case "ministral":
            types = mostly(SLIDING, FULL, layers)
            return tf.MinistralConfig(**dict(head_dim=12, sliding_window=8) | common, rope_parameters=default, layer_types=types)
        case "exaone4":
            types = mostly(SLIDING, FULL, layers)
            return tf.Exaone4Config(**dict(sliding_window=8) | common, rope_parameters=default, layer_types=types)
        case "smollm3":
            has_positions = [int(kind == SLIDING) for kind in mostly(SLIDING, FULL, layers)]
            return tf.SmolLM3Config(**common, rope_parameters=default, no_rope_layers=has_positions)
        case "seed_oss":
            return tf.SeedOssConfig(**dict(head_dim=12) | common, rope_parameters=default)
        case "olmo2":
            return tf.Olmo2Config(**common, rope_parameters=default)
        case "qwen2":
            return tf.Qwen2Config(**dict(use_sliding_window=True, sliding_window=8, max_window_layers=2) | common)
        case _:
            raise ValueError(name)


def mostly(kind: str, other: str, layers: int) -> list[str]:
    """Every third layer is of the other kind."""
    return [other if layer % 3 == 2 else kind for layer in range(layers)]


def random(name: str, tied: bool, seed: int = 1, **changes):
    """Nothing at identity: every parameter must matter."""
    torch.manual_seed(seed)
    model = tf.AutoModelForCausalLM.from_config(config(name, tied, **changes)).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def greedy(model, prompts: list[np.ndarray], limit: int, stop: list[int]) -> list[list[int]]:
    """What `generate` writes for all prompts in one batch, padded on the left; each answer ends with its first end token."""
    width, padding = max(map(len, prompts)), 0
    ids = np.full((len(prompts), width), padding, np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, 1
    with torch.no_grad():
        out = model.generate(
            torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), do_sample=False, max_new_tokens=limit,
            eos_token_id=stop or None, pad_token_id=padding,
        )  # fmt: skip
    answers = out[:, width:].tolist()
    ends = [next((i + 1 for i, token in enumerate(answer) if token in stop), limit) for answer in answers]
    return [answer[:end] for answer, end in zip(answers, ends, strict=True)]


def prompts(seed: int, many: int = 64, longest: int = 40, vocab: int = 96) -> list[np.ndarray]:
    """Of every length up to five times the sliding window of `config`."""
    draw = np.random.default_rng(seed)
    return [draw.integers(0, vocab, 1 + i * longest // many).astype(np.int32) for i in range(many)]


def stops(answers: list[list[int]]) -> list[int]:
    """Three tokens that end answers: one that some answer begins with, and two that come later in others."""
    found: list[int] = []
    for place in (0, 5, 20):
        rest = [answer for answer in answers if not set(found) & set(answer[: place + 1])]
        found += [answer[place] for answer in rest[:1] if answer[place] not in found]
    return found
