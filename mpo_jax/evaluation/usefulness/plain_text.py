"""How does a text become tokens that the model goes on with, where no chat format is put around it?"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpo_jax.data.conversation import Conversation
from mpo_jax.data.prompts.base import Message


@dataclasses.dataclass(frozen=True)
class PlainText:
    """A `Chat` of one message, whose text is read as it is. `longest`: only so many of its last tokens are read; None = all.
    Answers end as those to conversations do."""

    conversation: Conversation
    longest: int | None = None

    @property
    def first_id(self) -> int:
        """The token that stands before a text: the beginning of text, or where the tokenizer has none, the end."""
        tokenizer = self.conversation.tokenizer
        known = (tokenizer.bos_token_id, tokenizer.eos_token_id, self.stop_ids[0])
        return next(int(token) for token in known if token is not None)  # pyright: ignore[reportArgumentType]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return self.conversation.stop_ids

    @property
    def settings(self) -> dict[str, Any]:
        return {"template": "none", "stop_ids": list(self.stop_ids), "longest": self.longest}

    def ids(self, text: str, special: bool | None = None) -> list[int]:
        """With the special tokens that this tokenizer adds to a text, where `special`; None = unless the text brings its own
        beginning, as one in a chat format does."""
        tokenizer = self.conversation.tokenizer
        if special is None:
            special = not text.startswith(str(tokenizer.decode([self.first_id])))
        return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def tokens(self, messages: Sequence[Message]) -> np.ndarray:
        (message,) = messages
        ids = self.ids(message.content)
        return np.asarray(ids if self.longest is None else ids[-self.longest :], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self.conversation.decode(ids)
