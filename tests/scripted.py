"""A model, a translator and a judge whose every word a test writes: builds by recipe, without a server."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mpo_jax.clients.judges.base import TWO_CLASSES, Judge
from mpo_jax.clients.translators.base import Translator
from mpo_jax.data.prompts.base import Message
from mpo_jax.generation.base import Decoding, Request, Response
from mpo_jax.recipes.base import Build
from mpo_jax.recipes.sources import Source

LIMIT = "..."  # at the end of an answer: it reached the limit of tokens
SOURCES = (Source("tea", {"en": "How do I make tea?"}, "Steal it."), Source("bike", {"en": "Who repairs bikes?"}, "Nobody."))


@dataclasses.dataclass
class Voice:
    """A `Responder` that says what `says` makes of a request. `asked`: all requests so far."""

    says: Callable[[Request], str]
    asked: list[Request] = dataclasses.field(default_factory=list)
    decodings: list[tuple[Decoding, str]] = dataclasses.field(default_factory=list)
    shared: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        return {"scripted": True}

    @property
    def known(self) -> dict[str, Any]:
        return self.settings

    def responder(self, decoding: Decoding, opening: str = "") -> "Voice":
        self.decodings.append((decoding, opening))
        return self

    def respond(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Response]]:
        for request in requests:
            self.asked.append(request)
            text = self.says(request)
            if text.startswith("error:"):
                yield request, Response("", "error", None, None, error=text)
            else:
                yield request, Response(text.removesuffix(LIMIT), "length" if text.endswith(LIMIT) else "end", None, None)


def translator(language: str) -> Translator:
    """Says of a text that it is in the language; None of a text that says so."""

    def said(request: Request) -> str:
        text = request.messages[-1].content
        return "error: gone" if "untranslatable" in text else f"[{language}] {text}"

    voice = Voice(said)
    return Translator(f"to-{language}", language, lambda text, source: (Message("user", text),), lambda: voice)


def judge(says: Callable[[str], str]) -> tuple[Judge, Voice]:
    """Of a function of the response."""
    voice = Voice(lambda request: says(request.messages[-1].content))
    messages = lambda query, response: (Message("user", query), Message("assistant", response))  # noqa: E731
    parse = lambda text: text if text in TWO_CLASSES.verdicts else None  # noqa: E731
    return Judge("scripted", TWO_CLASSES, None, messages, parse, lambda: voice), voice


def build(folder: Path, voice: Voice, *, sources: Sequence[Source] = SOURCES, **more: Any) -> Build:
    return Build(folder, sources, "en", ("sw",), **{"model": voice, "translator": translator, **more})
