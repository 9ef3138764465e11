"""What was asked, what was answered, and what of it does a judge read?

The query goes to the judge in English, as the set has it, wherever the response does: what MPO did is not said, and all its sets
have the English original.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mpo_jax.clients.judges.base import reads_as_written
from mpo_jax.clients.translators.base import Text, Translation
from mpo_jax.data.language import UNKNOWN
from mpo_jax.data.prompts.base import Prompt
from mpo_jax.errors import InputError
from mpo_jax.generation.records import Slot
from mpo_jax.generation.run import answered


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A user's message and the model's answer to it. `response` is None where there is none, and `missing` says why. `english` is
    the message in English, where the set of prompts has it. `id`: of the prompt."""

    language: str
    id: str
    sample: int
    turn: int
    query: str
    response: str | None
    english: str | None = None
    missing: str | None = None

    @property
    def slot(self) -> Slot:
        return self.language, self.id, self.sample, self.turn


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a judge is to read of an exchange, or why it cannot: then the texts are empty. `language`: that of the response for
    the judge; `UNKNOWN` where it may be any."""

    language: str
    query: str
    response: str
    missing: str | None = None


def exchanges(prompts: Sequence[Prompt], every: Iterable[Prompt], folder: Path, *, samples: int = 1) -> list[Exchange]:
    """Those of a model whose answers are in `folder`. `every`: all prompts of the set, among which the English ones are found by
    their ids. Errors: those of `read_responses`; no answer at all to these prompts."""
    english = {prompt.id: prompt for prompt in every if prompt.language == "en"}
    found = []
    for request, record in answered(prompts, folder, samples=samples):
        missing = "not answered yet" if record is None else f"no answer: {record.error}" if record.stopped == "error" else None
        response = record.text if record is not None and missing is None else None
        original = _english(request.prompt, english.get(request.prompt.id), request.turn)
        query = request.messages[-1].content
        prompt = request.prompt
        found.append(Exchange(prompt.language, prompt.id, request.sample, request.turn, query, response, original, missing))
    if all(one.response is None for one in found):
        raise InputError(f"{folder} has no answer to these prompts: run the command with --stage responses first.")
    return found


def texts(found: Iterable[Exchange], languages: frozenset[str] | None) -> list[Text]:
    """What has to be in English for a judge of these `languages` (see `Judge`), if there is a translator."""
    wanted = []
    for one in found:
        if one.response is not None and not reads_as_written(languages, one.language, translated=True):
            wanted += [Text(one.language, one.response), *([Text(one.language, one.query)] if one.english is None else [])]
    return list(dict.fromkeys(wanted))


def readings(
    found: Sequence[Exchange], name: str, languages: frozenset[str] | None, known: Mapping[Text, Translation] | None
) -> list[Reading]:
    """Of each exchange, for the judge of this name and these languages. `known`: translations, None without a translator. Errors:
    a language that the judge does not know, without a translator."""
    for language in dict.fromkeys(one.language for one in found):
        if known is None and not reads_as_written(languages, language, translated=False):
            read = ", ".join(sorted(languages or ()))
            raise InputError(
                f"The judge '{name}' does not know '{language}' (it reads {read}): give a translator with --translate, or leave "
                "this language out with --languages."
            )
    return [_reading(one, languages, None if known is None else known.__getitem__) for one in found]


def _reading(one: Exchange, languages: frozenset[str] | None, known: Callable[[Text], Translation] | None) -> Reading:
    if one.response is None:
        return Reading(one.language, "", "", one.missing)
    if reads_as_written(languages, one.language, translated=known is not None):
        if languages is None and one.language != "en":
            return Reading(UNKNOWN, one.english or one.query, one.response)
        return Reading(one.language, one.query, one.response)
    assert known is not None, "`readings` has refused it"
    response = known(Text(one.language, one.response))
    query = Translation(one.english) if one.english is not None else known(Text(one.language, one.query))
    return Reading("en", query.text, response.text, response.error or query.error)


def _english(prompt: Prompt, original: Prompt | None, turn: int) -> str | None:
    if original is not None:
        turns = (original.messages[-1].content, *original.follow_ups)
        return turns[turn] if turn < len(turns) else None
    field = prompt.fields.get("en")
    return field if turn == 0 and isinstance(field, str) else None
