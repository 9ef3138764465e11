"""Prompts whose text is their token ids, so that a test of generation needs no tokenizer."""

import numpy as np

from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.generation.base import Request


class Spelled:
    """The conversation format of such prompts."""

    def __init__(self, stop_ids):
        self.stop_ids, self.settings = tuple(map(int, stop_ids)), {"template": "numbers"}

    def tokens(self, messages) -> np.ndarray:
        return np.asarray([int(word) for word in messages[-1].content.split()], np.int32)

    def decode(self, ids) -> str:
        return " ".join(map(str, ids))


def request(name: str, tokens, sample: int = 0, language: str = "sw") -> Request:
    messages = (Message("user", " ".join(map(str, tokens))),)
    return Request(Prompt(name, language, messages), sample, 0, messages, f"{name}-{sample}")
