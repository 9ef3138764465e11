"""What is a prompt? The messages that a model answers, in one language, and what its set says about it beside."""

import dataclasses
from collections.abc import Sequence
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


def misplaced(messages: Sequence[Message]) -> str | None:
    """What is wrong with the order of a conversation that a model is to go on with, in words; None where nothing is."""
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if turns[-1:] != ["user"]:
        return f"it ends with {'a message of the ' + roles[-1] if roles else 'no message at all'}, not with one of the user"
    if turns != [("user", "assistant")[i % 2] for i in range(len(turns))]:
        return f"user and assistant do not take turns after an optional system message ({', '.join(roles)})"
    return None
