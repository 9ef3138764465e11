"""Which translators are there? One line adds one: `"mine": mine.translator`."""

import dataclasses
from collections.abc import Callable

from mpo_jax.clients.asked import AskedModel
from mpo_jax.clients.recorder import Recording
from mpo_jax.clients.translators import google, nllb, server
from mpo_jax.clients.translators.base import Translator
from mpo_jax.errors import InputError, check_choice
from mpo_jax.files.paths import path_of
from mpo_jax.generation.base import Decoding

MOST = 2048  # tokens of a translation


@dataclasses.dataclass(frozen=True)
class Given:
    """What a command knows of the translator: the model to ask, another prompt (a file), and the recording."""

    model: AskedModel
    prompt: str | None = None
    recording: Recording | None = None


def _server(given: Given, target: str) -> Translator:
    prompt = server.PROMPT if given.prompt is None else server.read_prompt(path_of(given.prompt))
    called = given.model.called
    return server.translator(lambda: given.model.responder(Decoding(max_new_tokens=MOST)), target, called, prompt)


def _nllb(given: Given, target: str) -> Translator:
    if given.model.folder is None:
        raise InputError("The translator 'nllb' needs its model: give --translate-dir, a folder converted for CTranslate2.")
    return nllb.translator(path_of(given.model.folder), target)


def _google(given: Given, target: str) -> Translator:
    return google.translator(target, given.recording)


TRANSLATORS: dict[str, Callable[[Given, str], Translator | None]] = {
    "server": _server,
    "nllb": _nllb,
    "google": _google,
    "none": lambda given, target: None,
}


def translator(name: str, given: Given, target: str = "en") -> Translator | None:
    """None: texts stay as they are. Errors: an unknown name; those of the translator."""
    check_choice("translate", name, TRANSLATORS)
    return TRANSLATORS[name](given, target)
