"""What does a text mean in another language? Each distinct text is asked about once, and kept.

A translation is an answer to a prompt that is the text: `generation.run` keeps it, goes on where it was cut short, and tries
errors again. The text's digest is the prompt's id, so the answers of two models that say the same are translated once.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mpo_jax.clients.languages import language
from mpo_jax.data.language import UNKNOWN, detect
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.errors import InputError
from mpo_jax.generation.base import Responder
from mpo_jax.generation.run import Summary, answered, complete, generate


@dataclasses.dataclass(frozen=True)
class Translator:
    """Into the language `target`. `messages` makes the conversation about (text, its language), whose last message someone
    translates; `responder` is called when there is something to ask. `languages`: those that it knows; None: any. `told`: whether
    it is told a text's language; if not, a text is the same question in any."""

    name: str
    target: str
    messages: Callable[[str, str], tuple[Message, ...]]
    responder: Callable[[], Responder]
    languages: frozenset[str] | None = None
    told: bool = True


@dataclasses.dataclass(frozen=True)
class Text:
    """Something to be translated. `language`: an ISO 639-1 code."""

    language: str
    text: str


@dataclasses.dataclass(frozen=True)
class Translation:
    """What a text means, or why that is not known: then `text` is empty. `translated`: whether a translator was asked."""

    text: str
    error: str | None = None
    translated: bool = True


def needs_none(text: Text, target: str) -> bool:
    """Whether a text is its own translation: it is blank, or in the target language, as a model may answer in English whatever
    it is asked in."""
    return not text.text.strip() or text.language == target or detect(text.text).language == target


def translate(texts: Iterable[Text], translator: Translator, folder: Path) -> Summary | None:
    """Writes what `folder` lacks of the translations; None where it lacks none. Errors: a language that the translator does not
    know; those of `generate`."""
    prompts = _prompts(texts, translator)
    for code in sorted({prompt.language for prompt in prompts}):
        if translator.languages is not None and code not in translator.languages:
            raise InputError(f"The translator '{translator.name}' does not know '{code}': choose another with --translate.")
    return None if complete(prompts, folder) else generate(prompts, translator.responder(), folder)


def translations(texts: Iterable[Text], translator: Translator, folder: Path) -> Mapping[Text, Translation]:
    """What is known of each text. Errors: those of `read_responses`."""
    texts = list(dict.fromkeys(texts))
    prompts = _prompts(texts, translator)
    records = answered(prompts, folder) if prompts else []
    known = {(request.prompt.language, request.prompt.id): record for request, record in records}
    found = {}
    for text in texts:
        record = known.get(_slot(text, translator))
        if needs_none(text, translator.target):
            found[text] = Translation(text.text, translated=False)
        elif record is None:
            found[text] = Translation("", "not translated yet")
        elif record.stopped == "error":
            found[text] = Translation("", f"no translation: {record.error}")
        elif not record.text.strip():
            found[text] = Translation("", "an empty translation")
        else:
            found[text] = Translation(record.text)
    return found


def name_of(code: str) -> str:
    """A language as a prompt names it."""
    return language(code).name


def _prompts(texts: Iterable[Text], translator: Translator) -> list[Prompt]:
    """What the translator is asked, each question once."""
    asked = {}
    for text in texts:
        if not needs_none(text, translator.target):
            language, name = slot = _slot(text, translator)
            asked.setdefault(slot, Prompt(name, language, translator.messages(text.text, text.language)))
    return list(asked.values())


def _slot(text: Text, translator: Translator) -> tuple[str, str]:
    """The language and the id of the prompt that a text becomes."""
    digest = hashlib.blake2b(text.text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return text.language if translator.told else UNKNOWN, digest
