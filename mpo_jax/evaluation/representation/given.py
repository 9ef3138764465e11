"""How do prompts become rows, where every prompt of a language gets the same two answers?"""

import json
from collections.abc import Sequence
from pathlib import Path

from mpo_jax.data.json_objects import read_text
from mpo_jax.data.prompts.base import Prompt
from mpo_jax.data.rows import PairText, Row
from mpo_jax.errors import InputError


def rows_of_prompts(prompts: Sequence[Prompt], safe: Path, unsafe: Path, dominant: str) -> list[Row]:
    """A row for each prompt in another language than the dominant one, beside the dominant prompt with the same id. `safe` and
    `unsafe`: files with a JSON object, language -> answer. Errors: a file that is no such object; a language without an answer; a
    conversation of several turns; a prompt without a dominant one."""
    answers = [_answers(file) for file in (safe, unsafe)]

    def side(prompt: Prompt) -> PairText:
        if len(prompt.messages) != 1:
            raise InputError(f"The prompt '{prompt.id}' in '{prompt.language}' has several messages: give prompts with one.")
        for file, of_language in zip((safe, unsafe), answers, strict=True):
            if prompt.language not in of_language:
                raise InputError(f"{file} has no answer in '{prompt.language}': add one, or take its prompts out.")
        return PairText(prompt.language, prompt.messages[0].content, *(of[prompt.language] for of in answers))

    first = {prompt.id: prompt for prompt in prompts if prompt.language == dominant}
    rows = []
    for prompt in prompts:
        if prompt.language != dominant:
            if prompt.id not in first:
                raise InputError(
                    f"The prompt '{prompt.id}' in '{prompt.language}' has no counterpart in '{dominant}': give prompts with the "
                    "same ids in all languages."
                )
            rows.append(Row(f"{prompt.id}, {prompt.language}", side(first[prompt.id]), side(prompt), "given"))
    if not rows:
        raise InputError(f"There are no prompts beside those in '{dominant}': give some in another language.")
    return rows


def _answers(file: Path) -> dict[str, str]:
    try:
        found = json.loads(read_text(file))
    except ValueError as error:
        raise InputError(f'{file} is not JSON ({error}): write an object, {{"en": "...", "sw": "..."}}.') from None
    if not isinstance(found, dict) or not all(isinstance(text, str) and text.strip() for text in found.values()):
        raise InputError(f'{file} is not an object of texts by language: write {{"en": "...", "sw": "..."}}.')
    return found
