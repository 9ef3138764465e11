"""What is asked of a model, and what does it answer? The one interface of the engine on the mesh and of a served model."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.errors import InputError

Stopped = Literal["end", "length", "error"]


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How answers are drawn. `temperature` 0 takes the most probable token; otherwise logits are divided by it. `top_k`: only
    the k most probable tokens (0 = all). `top_p`: only the most probable tokens whose probabilities together reach it (1 = all),
    of those that `top_k` leaves. An answer has at most `max_new_tokens` tokens, its end token included."""

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for name, lowest in {"samples": 1, "max_new_tokens": 1, "top_k": 0}.items():
            if getattr(self, name) < lowest:
                raise InputError(f"{name}={getattr(self, name)} must be at least {lowest}.")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature={self.temperature} must be 0 (the most probable token) or a positive number.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p={self.top_p} must be above 0 and at most 1 (= all tokens).")
        if self.samples > 1 and self.temperature == 0:
            raise InputError(
                f"samples={self.samples} at temperature 0 would be {self.samples} times the same answer: give a temperature "
                "above 0, or samples=1."
            )


@dataclasses.dataclass(frozen=True)
class Request:
    """One answer to be written: the `sample`-th to this prompt, counted from 0. `messages` is the whole conversation so far and
    ends with a user's message; `turn` is the number of follow-ups in it. `key` is a digest of everything that determines the
    answer."""

    prompt: Prompt
    sample: int
    turn: int
    messages: tuple[Message, ...]
    key: str


@dataclasses.dataclass(frozen=True)
class Response:
    """An answer. `stopped` says why it ends: the model's own end token, the limit of tokens, or an error, which `error` then
    tells. `new_tokens` counts the end token; a count that a server does not tell is None. `top_logprobs`: the text of the most
    probable first tokens -> log-probability in nats, where these were asked for."""

    text: str
    stopped: Stopped
    prompt_tokens: int | None
    new_tokens: int | None
    tokens: tuple[int, ...] | None = None  # ids, end token included, where the responder knows them
    error: str | None = None
    top_logprobs: dict[str, float] | None = None


class Chat(Protocol):
    """How a conversation becomes tokens and an answer becomes text: a chat format (`data.conversation`), or a guard's own."""

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that determines the tokens, as JSON."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end an answer."""
        ...

    def tokens(self, messages: Sequence[Message]) -> np.ndarray:
        """The ids of the text up to where the answer begins, int32 of rank 1."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of an answer, whose end token may be among the ids."""
        ...


class Responder(Protocol):
    """Whatever answers: parameters on a mesh, or a server."""

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that determines an answer beside the conversation, as JSON: model digest, chat format, decoding, dtype."""
        ...

    @property
    def shared(self) -> bool:
        """Whether all processes must answer every request together. Otherwise each process answers a share of its own."""
        ...

    def respond(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Response]]:
        """Each request once, with its answer, in the order in which answers are ready."""
        ...
