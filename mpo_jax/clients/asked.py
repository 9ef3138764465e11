"""Who is asked, a served model or one on this run's own devices? Judges and translators are asked alike."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp

from mpo_jax.clients.recorder import Recording
from mpo_jax.data.conversation import Conversation
from mpo_jax.errors import InputError
from mpo_jax.files import hub
from mpo_jax.generation.base import Chat, Decoding, Responder
from mpo_jax.generation.engine import load_engine
from mpo_jax.generation.patience import Patience
from mpo_jax.generation.server import NO_KEY, Rendering, ServedModel

REPLAYED = "http://nobody.invalid"  # stands for the server while a recording answers


@dataclasses.dataclass(frozen=True)
class AskedModel:
    """`role`: "judge" or "translate", as its options begin. With a `server`, the model `model` there; otherwise the one in
    `folder`, a folder or a hub name, on these devices. `folder` beside a server has the tokenizer. The other fields are those of
    `ServedModel` and `load_engine`."""

    role: str
    server: str | None = None
    model: str | None = None
    folder: str | None = None
    key: str = dataclasses.field(default=NO_KEY, repr=False)
    concurrency: int = ServedModel.concurrency
    patience: Patience = dataclasses.field(default_factory=Patience)
    recording: Recording | None = None
    dtype: str = "bfloat16"
    batch_size: int = 32

    @property
    def served(self) -> bool:
        return self.server is not None or (self.model is not None and self.recording is not None and self.recording.replays)

    @property
    def called(self) -> str:
        """A name for folders. Errors: no model was named."""
        name = self.model if self.served else self.folder
        if name is None:
            raise InputError(
                f"There is no model to {self.role}: give --{self.role}-server and --{self.role}-model, or --{self.role}-dir with "
                "a model for these devices."
            )
        return re.sub(r"[^\w.-]+", "-", name.rstrip("/").rpartition("/")[2]) or "model"

    def responder(self, decoding: Decoding, chat: Callable[[Path], Chat] | None = None) -> Responder:
        """`chat` makes the form of conversations from the folder; without it a server renders them, and on these devices the
        tokenizer's own template does. Errors: a server without a name for the model, or without the tokenizer that `chat` needs;
        those of `ServedModel.check` and `load_engine`."""
        if not self.served:
            return self._engine(decoding, chat)
        if self.model is None:
            raise InputError(f"--{self.role}-server {self.server} may have several models: give --{self.role}-model too.")
        rendering = None
        if chat is not None:
            if self.folder is None:
                raise InputError(
                    f"The model '{self.model}' reads tokens that are made here, so that no text can pass for its control tokens: "
                    f"give --{self.role}-dir, a folder or hub name with its tokenizer."
                )
            form = chat(hub.resolve(self.folder, weights=False))
            rendering = Rendering(lambda messages: form.tokens(messages).tolist(), form.settings, form.stop_ids)
        url = self.server or REPLAYED
        served = ServedModel(url, self.model, decoding, rendering, self.concurrency, self.key, self.patience)
        if self.recording is None or not self.recording.replays:
            served.check()
        return served if self.recording is None else self.recording.wrap(served)

    def _engine(self, decoding: Decoding, chat: Callable[[Path], Chat] | None) -> Responder:
        assert self.folder is not None, "`called` has been asked"
        folder = hub.resolve(self.folder)
        form = Conversation.of(folder, None, "hf") if chat is None else chat(folder)
        dtype = jnp.dtype(self.dtype)
        return load_engine(folder, decoding, template="hf", dtype=dtype, batch_size=self.batch_size, chat=form)
