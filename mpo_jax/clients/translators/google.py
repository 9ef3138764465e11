"""How does Google Cloud Translation translate? Through its official client, as plain text.

Deng et al. translated so. The client finds the account's credentials itself: GOOGLE_APPLICATION_CREDENTIALS, or the machine's.
"""

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from mpo_jax.clients.languages import LANGUAGES, language
from mpo_jax.clients.recorder import Recording
from mpo_jax.clients.translators.base import Translator
from mpo_jax.data.prompts.base import Message
from mpo_jax.errors import InputError
from mpo_jax.generation.base import Request, Responder, Response


class Google:
    """A `Responder` whose answer to a text is its translation. `client`: google.cloud.translate_v2.Client."""

    shared = False

    def __init__(self, client: Any, target: str):
        self._client, self._target = client, target

    @property
    def settings(self) -> dict[str, Any]:
        return {"google": "nmt", "target": self._target, "format": "text"}

    def respond(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Response]]:
        """A text at a time: the client retries by itself, and what still fails is an error of that text."""
        for request in requests:
            source, target = language(request.prompt.language).google, language(self._target).google
            try:
                found = self._client.translate(
                    request.messages[-1].content, source_language=source, target_language=target, format_="text", model="nmt"
                )
            except Exception as error:  # those of the client, its transport and its credentials have no common base
                yield request, Response("", "error", None, None, error=f"{type(error).__name__}: {_line(error)}")
                continue
            yield request, Response(str(found["translatedText"]), "end", None, None)


def translator(target: str, recording: Recording | None = None) -> Translator:
    """A recording that is replayed takes the client's place."""

    def responder() -> Responder:
        if recording is None:
            return Google(_client(), target)
        return recording.wrap(Google(None if recording.replays else _client(), target))

    return Translator("google", target, lambda text, source: (Message("user", text),), responder, frozenset(LANGUAGES))


def _client() -> Any:
    """Errors: the client is not installed, or finds no credentials."""
    try:
        translate_v2 = importlib.import_module("google.cloud.translate_v2")
    except ImportError:
        raise InputError("The translator 'google' needs its client: run `pip install 'mpo_jax[google]'`.") from None
    try:
        return translate_v2.Client()
    except Exception as error:  # as above
        raise InputError(
            f"Google's client cannot start ({_line(error)}): set GOOGLE_APPLICATION_CREDENTIALS to the file of "
            "a service account that may use Cloud Translation."
        ) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
