"""Tiny random models of every family as transformers builds them, and what transformers writes with them. Needs torch."""

import numpy as np
import torch
import transformers as tf

torch.set_num_threads(1)  # tests run side by side


def config(name: str, tied: bool):
    common = dict(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, pad_token_id=None, attn_implementation="eager", tie_word_embeddings=tied,
    )  # fmt: skip
    llama3 = dict(rope_type="llama3", rope_theta=1e4, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    match name:
        case "llama":
            return tf.LlamaConfig(**common, rope_parameters=llama3 | dict(original_max_position_embeddings=32))
        case "gemma2":
            return tf.Gemma2Config(
                **common, head_dim=12, query_pre_attn_scalar=20, sliding_window=8, attn_logit_softcapping=2.0,
                final_logit_softcapping=4.0,
            )  # fmt: skip
        case _:
            return tf.Qwen2Config(**common, use_sliding_window=True, sliding_window=8, max_window_layers=2)


def random(name: str, tied: bool, seed: int = 1):
    """Nothing at identity: every parameter must matter."""
    torch.manual_seed(seed)
    model = tf.AutoModelForCausalLM.from_config(config(name, tied)).float().eval()
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
