"""What is a row? A prompt with a chosen and a rejected answer, in a target language and, when there is one, in a dominant one.

Three places rows come from, two schemas:

* our own, one object a line of a `.jsonl` file (a JSON array of the same objects is read too):
      {"id": "7", "source": {"language": "en", "prompt": "...", "chosen": "...", "rejected": "..."}, "target": {...}}
  where `id`, `language` and `source` may be left out (a monolingual preference set has no `source`);
* the authors' JSON (circle-hit/MPO): objects with `source_conversations`, `source_chosen`, `source_rejected`, `target_...`;
* a Hugging Face data set `user/name`, `user/name:split` or `user/name@revision:split` with either schema.

Text is kept as it is given: nothing is stripped, repaired or left out. The first fault found is an error that names its place.
"""

import dataclasses
import difflib
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from mpo_jax.data.json_objects import Place, kind, read_values, string
from mpo_jax.data.language import UNKNOWN, detect_all, vote
from mpo_jax.errors import InputError
from mpo_jax.files.hub import check_revision
from mpo_jax.files.paths import path_of


@dataclasses.dataclass(frozen=True)
class PairText:
    """One side of a row: two answers to one prompt. `language` is an ISO 639-1 code, "und" when unknown."""

    language: str
    prompt: str
    chosen: str
    rejected: str


@dataclasses.dataclass(frozen=True)
class Row:
    """`source` is the dominant-language side, None for monolingual data. `language_method` tells where the target's language
    comes from: "given" by the data, "detected", or "none" where it cannot be told (then it is "und")."""

    id: str
    source: PairText | None
    target: PairText
    language_method: str


DIGEST = 16  # bytes


def text_digest(*texts: str) -> bytes:
    """Names these texts, in this order."""
    encoded = [text.encode() for text in texts]
    lengths = " ".join(str(len(text)) for text in encoded).encode()
    return hashlib.blake2b(b"\n".join([lengths, *encoded]), digest_size=DIGEST).digest()


@dataclasses.dataclass(frozen=True)
class _Place(Place):
    """Where an object was found, and what it may lack."""

    allow_empty_prompt: bool


_AT_ONCE = 1024  # rows whose languages are detected together
_TEXTS = ("prompt", "chosen", "rejected")
_HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>\w[\w./-]*))?(?::(?P<split>[\w.\[\]%:+-]+))?")


def read_rows(path_or_name: str | Path, *, allow_empty_prompt: bool = False) -> list[Row]:
    """All rows of a file or a Hugging Face data set, in order. A row without an id is named by its index.

    Errors (`InputError`): everything that is not exactly one of the schemas above, naming file, row and key; an empty answer;
    an empty prompt unless `allow_empty_prompt`; an id that occurs twice; a source side in some rows only.
    """
    found = found_rows(path_or_name)
    objects = hub_objects(found, hub_rows(found)) if isinstance(found, HubName) else read_values(found)
    return [row for row, _ in checked(((where, value, None) for where, value in objects), str(path_or_name), allow_empty_prompt)]


@dataclasses.dataclass(frozen=True)
class HubName:
    """A Hugging Face data set."""

    name: str
    revision: str | None
    split: str

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}:{self.split}" if self.revision else f"{self.name}:{self.split}"


def found_rows(path_or_name: str | Path) -> Path | HubName:
    """The file or data set of this name. Errors: neither."""
    name = str(path_or_name)
    path = path_of(name)
    hub = _HUB_NAME.fullmatch(name)
    if path.is_dir():
        raise InputError(f"{name} is a directory: give the data file in it.")
    check_revision(name)
    if path.exists():
        return path
    if hub and not path.suffix.startswith(".json"):
        return HubName(hub["name"], hub["revision"], hub["split"] or "train")
    raise InputError(f"{name} does not exist: give a .json or .jsonl file, or a Hugging Face data set as user/name.")


T = TypeVar("T")


def checked(objects: Iterable[tuple[str, Any, T]], name: str, allow_empty_prompt: bool) -> Iterator[tuple[Row, T]]:
    """The row of each (place, object, anything), with what came with it. Errors: those of `read_rows`."""
    objects = iter(objects)
    together, i = _Together(), 0
    while part := list(itertools.islice(objects, _AT_ONCE)):
        detect_all(text for _, value, _ in part for text in _texts_without_language(value))
        for where, value, more in part:
            row = _row(value, str(i), _Place(where, allow_empty_prompt))
            together.check(row, where)
            yield row, more
            i += 1
    if not i:
        raise InputError(f"{name} has no rows: give a file with at least one.")


def read_texts(path: str | Path) -> list[Row]:
    """Plain answers for measuring perplexity: a `.jsonl` of {"language", "prompt", "answer"}. Each answer is both the chosen and
    the rejected one of a row's target side, so that it is scored like any other."""
    path = path_of(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a .jsonl file of objects with language, prompt and answer.")
    rows = []
    for i, (where, value) in enumerate(read_values(path)):
        place = _Place(where, allow_empty_prompt=False)
        keys = ("language", "prompt", "answer")
        if not isinstance(value, dict) or set(value) != set(keys):
            raise place.error(f"a text must be an object with exactly the keys {', '.join(keys)}")
        language, prompt, answer = (string(value[key], key, place) for key in keys)
        texts = {"prompt": prompt, "chosen": answer, "rejected": answer}
        rows.append(Row(str(i), None, *_pair(texts, language, UNKNOWN, "target", place)))
    return rows


def read_again(value: Any, identity: str, languages: tuple[str | None, str], method: str) -> Row:
    """The row of an object that was checked before, with the languages of its source and its target that were found then."""

    def pair(side: str, language: str) -> PairText:
        if f"{side}_conversations" in value:
            turns = (value[f"{side}_conversations"][0], value[f"{side}_chosen"], value[f"{side}_rejected"])
            return PairText(language, *(turn["value"] for turn in turns))
        return PairText(language, *(value[side][key] for key in _TEXTS))

    source, target = languages
    return Row(identity, None if source is None else pair("source", source), pair("target", target), method)


def hub_objects(data_set: HubName, rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Its rows, each with its place."""
    return ((f"{data_set}, row {i}", value) for i, value in enumerate(rows))


def hub_rows(data_set: HubName) -> Sequence[Any]:
    """The rows of a data set, which come from its files when they are asked for. Errors: one that cannot be loaded."""
    name, revision, split = data_set.name, data_set.revision, data_set.split
    try:
        import datasets  # takes seconds to import, and only this function needs it
    except ImportError:
        raise InputError(
            f"{name} is not a local file; to read it from the Hugging Face Hub, run `pip install datasets` first."
        ) from None
    asked = f"{name}@{revision}" if revision else name
    try:
        return cast(Sequence[Any], datasets.load_dataset(name, split=split, revision=revision))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{asked} is neither a local file nor a Hugging Face data set whose split '{split}' can be loaded ({reason}): "
            f"check the name{' and the revision' if revision else ''}, or give a .json or .jsonl file."
        ) from None


def _row(value: Any, default_id: str, place: _Place) -> Row:
    if not isinstance(value, dict):
        raise place.error(f"a row must be an object with the key 'target', not {kind(value)}")
    if "target_conversations" in value:
        source = _authors_side(value, "source", UNKNOWN, place)[0]
        return Row(default_id, source, *_authors_side(value, "target", source.language, place))
    _check_keys(value, ("id", "source", "target"), place)
    if value.get("target") is None:
        raise place.error("the key 'target' is missing: write an object with prompt, chosen and rejected")
    identity = default_id if value.get("id") is None else string(value["id"], "id", place)
    source = None if value.get("source") is None else _side(value["source"], "source", UNKNOWN, place)[0]
    return Row(identity, source, *_side(value["target"], "target", source.language if source else UNKNOWN, place))


def _texts_without_language(value: Any) -> Iterator[str]:
    """The texts of a row that `vote` will be asked about; of a row with faults, some of them."""
    if not isinstance(value, dict):
        return
    for name in ("source", "target"):
        turns = value.get(f"{name}_conversations")
        if isinstance(turns, list):
            sides = [*turns, value.get(f"{name}_chosen"), value.get(f"{name}_rejected")]
            texts = [turn.get("value") for turn in sides if isinstance(turn, dict)]
        else:
            side = value.get(name)
            texts = [side.get(key) for key in _TEXTS] if isinstance(side, dict) and side.get("language") is None else []
        yield from (text for text in texts if isinstance(text, str))


def _side(value: Any, side: str, unlike: str, place: _Place) -> tuple[PairText, str]:
    if not isinstance(value, dict):
        raise place.error(f"'{side}' must be an object with {', '.join(_TEXTS)}, not {kind(value)}")
    _check_keys(value, ("language", *_TEXTS), place, f"{side}.")
    texts = {}
    for key in _TEXTS:
        if key not in value:
            raise place.error(f"the key '{side}.{key}' is missing: write it as a string")
        texts[key] = string(value[key], f"{side}.{key}", place)
    given = value.get("language")
    if given is not None and not string(given, f"{side}.language", place).strip():
        raise place.error(f"'{side}.language' is empty: write a code such as \"sw\", or leave the key out")
    return _pair(texts, given, unlike, side, place)


def _authors_side(value: dict[str, Any], side: str, unlike: str, place: _Place) -> tuple[PairText, str]:
    for key in (f"{side}_conversations", f"{side}_chosen", f"{side}_rejected"):
        if key not in value:
            raise place.error(f"the key '{key}' is missing: the authors' schema needs it for both sides")
    turns = value[f"{side}_conversations"]
    if not isinstance(turns, list) or len(turns) != 1:
        count = f"{len(turns)} turns" if isinstance(turns, list) else kind(turns)
        raise place.error(f"'{side}_conversations' must be a list of exactly one human turn, not {count}")
    texts = {
        "prompt": _turn(turns[0], "human", f"{side}_conversations[0]", place),
        "chosen": _turn(value[f"{side}_chosen"], "gpt", f"{side}_chosen", place),
        "rejected": _turn(value[f"{side}_rejected"], "gpt", f"{side}_rejected", place),
    }
    return _pair(texts, None, unlike, side, place)


def _turn(value: Any, speaker: str, key: str, place: _Place) -> str:
    if not isinstance(value, dict) or "value" not in value or value.get("from") != speaker:
        raise place.error(f'\'{key}\' must be an object with "from": "{speaker}" and a string "value"')
    return string(value["value"], f"{key}.value", place)


def _pair(texts: dict[str, str], given: str | None, unlike: str, side: str, place: _Place) -> tuple[PairText, str]:
    for key in ("chosen", "rejected"):
        if not texts[key].strip():
            raise place.error(f"the {key} answer on the {side} side is empty: write one, or take the row out")
    if not texts["prompt"].strip() and not place.allow_empty_prompt:
        raise place.error(f"the prompt on the {side} side is empty: write one, or allow it with allow_empty_prompt")
    if given is not None:
        return PairText(given, **texts), "given"
    language = vote(texts.values(), unlike)
    return PairText(language, **texts), "none" if language == UNKNOWN else "detected"


def _check_keys(value: dict[str, Any], known: tuple[str, ...], place: _Place, prefix: str = "") -> None:
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"write '{prefix}{near[0]}', perhaps" if near else f"the known keys are {', '.join(known)}"
            raise place.error(f"the key '{prefix}{key}' is unknown: {hint}")


class _Together:
    """Owns what is known of the rows of a data set so far: no id occurs twice, and all have a source side or none."""

    def __init__(self):
        self._seen: dict[str, str] = {}
        self._with_source = False

    def check(self, row: Row, where: str) -> None:
        if row.id in self._seen:
            raise InputError(f"{where}: the id '{row.id}' is already taken by {self._seen[row.id]}: give every row its own.")
        if not self._seen:
            self._with_source = row.source is not None
        self._seen[row.id] = where
        if (row.source is not None) != self._with_source:
            this, other = ("a 'source'", "none") if row.source else ("no 'source'", "one")
            raise InputError(f"{where} has {this}, but the first row has {other}: give all rows a 'source', or none.")
