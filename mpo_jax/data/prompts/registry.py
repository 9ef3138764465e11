"""Which set of prompts is a file, and which of its prompts are asked for? Its content decides, not its name."""

import collections
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from mpo_jax.data.json_objects import Place, read_text
from mpo_jax.data.prompts import advbench, beavertails, csrt, mgsm, mt_bench, multijail, own, pku_saferlhf, preference_rows
from mpo_jax.data.prompts.base import Prompt
from mpo_jax.data.prompts.content import Content, Found, PromptSet
from mpo_jax.errors import InputError, check_choice
from mpo_jax.files.paths import path_of
from mpo_jax.types import SIDES

# The first that fits: prompts of one's own may have fields named like another set's keys.
SETS: tuple[PromptSet, ...] = (
    own.SET,
    preference_rows.SET,
    multijail.SET,
    csrt.SET,
    advbench.SET,
    beavertails.SET,
    pku_saferlhf.SET,
    mgsm.SET,
    mt_bench.SET,
)


def read_prompts(
    path: str | Path, *, languages: Sequence[str] | None = None, limit: int | None = None, side: str = "target"
) -> list[Prompt]:
    """The prompts of a file, or of several whose paths are separated by commas, in their order.

    `languages`: only prompts in these. `limit`: only the first so many of each language. `side`: which side of preference rows
    ("target" or "source").
    Errors (`InputError`), for what is asked for: no such file; a file that is none of `SETS`, or that is broken, naming the
    line; no prompts at all; a language that no prompt has; an empty message; an id that occurs twice in a language; a side of
    prompts that have none.
    """
    check_choice("side", side, SIDES)
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} must be at least 1: the number of prompts of each language.")
    paths = [path] if isinstance(path, Path) else [part.strip() for part in path.split(",")]
    found = [pair for one in paths for pair in _read(path_of(one), side)]
    there = list(dict.fromkeys(prompt.language for _, prompt in found))
    if not there:
        raise InputError(f"{path} has no prompts: give a file with at least one.")
    for language in languages or ():
        if language not in there:
            raise InputError(f"{path} has no prompts in the language '{language}': choose among {', '.join(there)}.")
    chosen = [(place, prompt) for place, prompt in found if languages is None or prompt.language in languages]
    _check(chosen)
    return first_of_each_language(limit, (prompt for _, prompt in chosen))


def _read(path: Path, side: str) -> Found:
    if path.is_dir():
        raise InputError(f"{path} is a directory: give the file in it, or several files with commas between them.")
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a file of prompts.")
    content = Content(path, read_text(path))
    known = next((known for known in SETS if known.fits(content)), None)
    if known is None:
        looks = "; ".join(f"{known.name} ({known.looks})" for known in SETS)
        raise InputError(f"{path} is no set of prompts that is known: give one of these: {looks}.")
    if side == "target":
        return known.read(content)
    if known.read_source is None:
        raise InputError(f"{path} is {known.name}, which has no sides: side='{side}' is for preference rows, so leave it out.")
    return known.read_source(content)


def _check(found: list[tuple[Place, Prompt]]) -> None:
    seen: dict[tuple[str, str], Place] = {}
    for place, prompt in found:
        called = f"the prompt '{prompt.id}' in the language '{prompt.language}'"
        texts = [*(message.content for message in prompt.messages), *prompt.follow_ups]
        if not all(text.strip() for text in texts):
            raise place.error(f"{called} is empty or has an empty message: write one, or take the prompt out")
        try:
            json.dumps(prompt.fields, ensure_ascii=False).encode()  # as they are written beside an answer
        except UnicodeEncodeError:
            raise place.error(f"{called} has half of a character in a field: write the whole character, or take it out") from None
        if first := seen.get((prompt.language, prompt.id)):
            raise place.error(f"{called} has an id that is already taken by {first.where}: give every prompt its own")
        seen[prompt.language, prompt.id] = place


def first_of_each_language(limit: int | None, prompts: Iterable[Prompt]) -> list[Prompt]:
    """The first so many of each language (None = all), in their order."""
    count, first = collections.Counter[str](), []
    for prompt in prompts:
        count[prompt.language] += 1
        if limit is None or count[prompt.language] <= limit:
            first.append(prompt)
    return first
