"""Which prompts does a recipe start from, in which languages, and which unsafe answer do the data have?

Every set that `data.prompts` knows will do. A prompt's languages are told apart by their codes and belong together by their ids.
Rows of preferences belong together by their dominant side, whose rejected answer is the unsafe one; prompts of one's own may have
one as the field `rejected`; PKU-SafeRLHF has one where the less safe response is unsafe.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mpo_jax.clients.languages import language as known_language
from mpo_jax.data.json_objects import read_text
from mpo_jax.data.prompts import preference_rows
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.data.prompts.content import Content
from mpo_jax.data.prompts.registry import read_prompts
from mpo_jax.data.rows import read_rows
from mpo_jax.errors import InputError
from mpo_jax.files.paths import path_of


@dataclasses.dataclass(frozen=True)
class Source:
    """`texts`: language -> the prompt as the data have it; the dominant one is always there. `unsafe`: an answer to it, in the
    dominant language, that should not be given."""

    id: str
    texts: Mapping[str, str]
    unsafe: str | None = None


def read_sources(path: str | Path, dominant: str, languages: Sequence[str]) -> list[Source]:
    """All prompts of a file, or of several with commas between them, that have a text in the dominant language, each text once.
    Errors: those of `read_prompts` and `read_rows`; a prompt of several messages or turns; no prompt in the dominant language; a
    language that no table has."""
    for code in (dominant, *languages):
        known_language(code)
    if dominant in languages:
        raise InputError(f"--languages has '{dominant}', the dominant language: leave it out, or give another --dominant.")
    found = _of_rows(path, dominant) if _is_rows(path_of(path)) else _of_prompts(path, dominant)
    kept = [dataclasses.replace(one, texts={k: v for k, v in one.texts.items() if k in (dominant, *languages)}) for one in found]
    once = {one.texts[dominant]: one for one in reversed(kept)}
    sources = [one for one in kept if once[one.texts[dominant]] is one]
    if not sources:
        raise InputError(f"{path} has no prompts in '{dominant}', the dominant language: give others, or another --dominant.")
    return sources


def selected(
    sources: Sequence[Source], usable: Callable[[Source], str | None], limit: int | None
) -> tuple[list[Source], dict[str, int]]:
    """(the first so many that a recipe can use, why others before these were left out -> their number). Errors: none is left."""
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} must be at least 1: the number of prompts.")
    kept: list[Source] = []
    left_out: dict[str, int] = {}
    for source in sources:
        if limit is not None and len(kept) == limit:
            break
        if (reason := usable(source)) is None:
            kept.append(source)
        else:
            left_out[reason] = left_out.get(reason, 0) + 1
    if not kept:
        reasons = "; ".join(f"{count}: {reason}" for reason, count in left_out.items())
        raise InputError(f"None of {len(sources)} prompts can be used ({reasons}): give others.")
    return kept, left_out


def digest(sources: Sequence[Source]) -> str:
    """Of all that the prompts say."""
    facts = json.dumps([[one.id, sorted(one.texts.items()), one.unsafe] for one in sources])
    return hashlib.blake2b(facts.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def prompts(texts: Mapping[str, str], language: str) -> list[Prompt]:
    """id -> text in this language, as prompts."""
    return [Prompt(name, language, (Message("user", text),)) for name, text in texts.items()]


def _is_rows(path: Path) -> bool:
    return path.is_file() and preference_rows.SET.fits(Content(path, read_text(path)))


def _of_rows(path: str | Path, dominant: str) -> list[Source]:
    found: dict[str, Source] = {}
    for row in read_rows(path, allow_empty_prompt=True):
        if row.source is None or row.source.language != dominant or not row.source.prompt.strip():
            continue
        first = Source(row.id, {dominant: row.source.prompt}, row.source.rejected)
        known = found.get(row.source.prompt, first)
        given = {row.target.language: row.target.prompt} if row.target.prompt.strip() else {}
        found[row.source.prompt] = dataclasses.replace(known, texts={**given, **known.texts})
    return list(found.values())


def _of_prompts(path: str | Path, dominant: str) -> list[Source]:
    texts: dict[str, dict[str, str]] = {}
    unsafe: dict[str, str] = {}
    for prompt in read_prompts(path):
        if len(prompt.messages) != 1 or prompt.follow_ups:
            raise InputError(
                f"{path}: the prompt '{prompt.id}' in '{prompt.language}' has several messages or turns, and a row has one: give "
                "prompts of one message."
            )
        texts.setdefault(prompt.id, {})[prompt.language] = prompt.messages[0].content
        if prompt.language == dominant and isinstance(prompt.fields.get("rejected"), str):
            unsafe[prompt.id] = prompt.fields["rejected"]
    return [Source(name, found, unsafe.get(name)) for name, found in texts.items() if dominant in found]
