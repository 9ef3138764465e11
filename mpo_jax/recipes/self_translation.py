"""How does a model translate its own answers? Between tags, the first of which opens its answer.

The wording is that of W. Yang et al., "Language Imbalance Driven Rewarding for Multilingual Self-improving", arXiv:2410.08964.
"""

import hashlib
from collections.abc import Iterable, Mapping

from mpo_jax.clients.languages import language
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.records import Record
from mpo_jax.recipes.answers import failure, read_answers, write_answers
from mpo_jax.recipes.base import Build

OPENING, CLOSING = "<translated>\n", "</translated>"
PROMPT = (
    "Please translate the following sentences into {lang}. The input sentences are wrapped by <sentence> and </sentence>:\n\n"
    "<sentence>\n{text}\n</sentence>\n\n"
    "The translated result should be wrapped by <translated> and </translated>.\n"
)
NO_TAG = f"a self-translation without {CLOSING}"


def write_self_translations(build: Build, stage: str, asked: Iterable[tuple[str, str]], decoding: Decoding) -> str:
    """Has the model translate each (text, language to translate it into). Errors: those of `write_answers`."""
    return write_answers(build, stage, _prompts(asked), decoding, opening=OPENING)


def read_self_translations(build: Build, stage: str, asked: Iterable[tuple[str, str]]) -> Mapping[tuple[str, str], Record]:
    """(text, language) -> what the model said. Errors: those of `read_answers`."""
    asked = list(asked)
    records = read_answers(build, stage, _prompts(asked))
    return {(text, into): records[into, _id(text), 0] for text, into in asked}


def translation_in(record: Record) -> tuple[str, str | None]:
    """(the text up to the closing tag, why there is none)."""
    if (failed := failure(record)) is not None:
        return "", failed
    text, closed, _ = record.text.partition(CLOSING)
    if not closed:
        return "", NO_TAG
    return text.strip(), None if text.strip() else "an empty self-translation"


def _prompts(asked: Iterable[tuple[str, str]]) -> list[Prompt]:
    """Each text once a language; its digest is the id."""
    found = {}
    for text, into in asked:
        content = PROMPT.replace("{lang}", language(into).name).replace("{text}", text)
        found[into, text] = Prompt(_id(text), into, (Message("user", content),))
    return list(found.values())


def _id(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
