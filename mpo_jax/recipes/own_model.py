"""Which model are the data of? One on these devices or on a server, which answers, and which can be given its first words.

To have a translation between tags, an answer is opened with the first of them: the model goes on from there.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from mpo_jax.checkpoints.peft_folder import ADAPTER_FILES
from mpo_jax.clients.recorder import Recording
from mpo_jax.data.conversation import Conversation
from mpo_jax.data.prompts.base import Message
from mpo_jax.errors import InputError
from mpo_jax.files import hub
from mpo_jax.files.digests import digests, fingerprint, sampled
from mpo_jax.files.paths import path_of
from mpo_jax.generation.base import Decoding, Responder
from mpo_jax.generation.engine import Engine, load_engine
from mpo_jax.generation.server import Rendering, ServedModel
from mpo_jax.models.families.registry import build


class OwnModel(Protocol):
    """Whatever writes the answers that become rows."""

    @property
    def known(self) -> dict[str, Any]:
        """Which model this is, as JSON."""
        ...

    def responder(self, decoding: Decoding, opening: str = "") -> Responder:
        """`opening`: the first words of every answer, which are no part of its text."""
        ...


@dataclasses.dataclass(frozen=True)
class Opened:
    """A chat format whose answers are opened with some words. See `generation.base.Chat`."""

    conversation: Conversation
    opening: str

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.conversation.settings, "opening": self.opening}

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return self.conversation.stop_ids

    def tokens(self, messages: Sequence[Message]) -> np.ndarray:
        """The opening is tokenised by itself, as an answer is."""
        words = self.conversation.tokenizer(self.opening, add_special_tokens=False, verbose=False)["input_ids"]
        return np.concatenate([self.conversation.tokens(messages), np.asarray(words, np.int32)])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self.conversation.decode(ids)


@dataclasses.dataclass(frozen=True)
class OnDevices:
    """A folder or a hub name, and an adapter of it, on these devices. The weights are read when they are first needed, and once.
    The other fields are those of `load_engine`."""

    name: str
    template: str = "authors"
    dtype: str = "bfloat16"
    batch_size: int = 32
    tensor: int | None = None
    width: int | None = None
    adapter: str | None = None

    @property
    def known(self) -> dict[str, Any]:
        """Errors: no such model."""
        return self._known

    @functools.cached_property
    def _known(self) -> dict[str, Any]:
        found = {"model": fingerprint(sampled(hub.resolve(self.name), hub.ALL_FILES))}
        if self.adapter is not None:
            found["adapter"] = fingerprint(digests(path_of(self.adapter), ADAPTER_FILES))
        return found

    @functools.cached_property
    def engine(self) -> Engine:
        """Its decoding is the default one: see `Engine.otherwise`."""
        return load_engine(
            hub.resolve(self.name),
            Decoding(),
            template=self.template,
            dtype=jnp.dtype(self.dtype),
            batch_size=self.batch_size,
            tensor=self.tensor,
            width=self.width,
            adapter=self.adapter,
            chat=self.conversation,
        )

    def release(self) -> None:
        """Its weights make room for another model's, and are read again when they are needed again."""
        vars(self).pop("engine", None)

    def responder(self, decoding: Decoding, opening: str = "") -> Responder:
        return self.engine.otherwise(decoding, Opened(self.conversation, opening) if opening else None)

    @functools.cached_property
    def conversation(self) -> Conversation:
        """The chat format of its tokenizer."""
        folder = hub.resolve(self.name, weights=False)
        return Conversation.of(folder, build(folder)[0].authors_chat if self.template == "authors" else None, self.template)


@dataclasses.dataclass(frozen=True)
class Served:
    """A model on a server. `conversation`: the chat format that renders for it here; None: the server renders."""

    served: ServedModel
    conversation: Conversation | None = None
    recording: Recording | None = None

    @property
    def known(self) -> dict[str, Any]:
        return {"served model": self.served.model}

    def responder(self, decoding: Decoding, opening: str = "") -> Responder:
        """Errors: an opening where the server renders; those of `ServedModel.check`."""
        rendering = None
        if self.conversation is not None:
            chat = Opened(self.conversation, opening) if opening else self.conversation
            rendering = Rendering(lambda messages: chat.tokens(messages).tolist(), chat.settings, chat.stop_ids)
        elif opening:
            raise InputError(
                f"Answers that are opened with {opening.strip()!r} are rendered here: give --model, a folder with the tokenizer, "
                "in place of --chat."
            )
        served = dataclasses.replace(self.served, decoding=decoding, rendering=rendering)
        if self.recording is None or not self.recording.replays:
            served.check()
        return served if self.recording is None else self.recording.wrap(served)
