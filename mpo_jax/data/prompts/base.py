"""What is a prompt? The messages that a model answers, in one language, and what its set says about it beside."""

import dataclasses
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclasses.dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A conversation that ends with a user's message. `follow_ups` are the user's next messages, each sent after the model has
    answered the one before. `id` is unique among the prompts of one language. `fields` is what the set says beside (a category,
    a reference answer), as JSON values."""

    id: str
    language: str
    messages: tuple[Message, ...]
    follow_ups: tuple[str, ...] = ()
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
