"""How are many numbers computed so that a kill costs little and changes none of them? In chunks, whose borders never move.

The last bits of a score may depend on what else is in its batch, so a chunk that was cut short is computed again as a whole.

FILE.json    the settings that all numbers were computed with
FILE.jsonl   {"key", "value"}: the key is a digest of what was asked
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mpo_jax.devices import processes
from mpo_jax.errors import InputError
from mpo_jax.files.json_files import differences, write_json
from mpo_jax.files.paths import Lines, write
from mpo_jax.generation.records import whole_lines

CHUNK = 256
T = TypeVar("T")


def compute(
    path: Path,
    settings: Mapping[str, Any],
    asked: Sequence[T],
    scores: Callable[[Sequence[T]], Sequence[Any]],
    chunk: int = CHUNK,
) -> int:
    """Writes what the file lacks of the scores of what is `asked`, tuples of strings, and returns how many were missing. All
    processes call it together; the first one writes. Errors: a file of other settings."""
    processes.on_first(lambda: _prepare(path, json.loads(json.dumps(settings))))
    known = {line["key"] for line in _lines(path)}
    asked = list({key_of(one): one for one in asked}.values())
    missing = 0
    for start in processes.progress(range(0, len(asked), chunk), desc=path.stem, unit="chunk", leave=False):
        part = asked[start : start + chunk]
        lacking = [key_of(one) not in known for one in part]
        if not any(lacking):
            continue
        missing += sum(lacking)
        found = scores(part)
        if processes.first():
            lines = Lines(path)
            for one, value, wanted in zip(part, found, lacking, strict=True):
                if wanted:
                    lines.write(json.dumps({"key": key_of(one), "value": value}))
            lines.close()
    processes.wait(f"all of {path.name} is there")
    return missing


def read(path: Path) -> Mapping[str, Any]:
    """`key_of` what was asked -> its score."""
    return {line["key"]: line["value"] for line in _lines(path)}


def key_of(one: Any) -> str:
    return hashlib.blake2b(json.dumps(one).encode(), digest_size=16).hexdigest()


def _prepare(path: Path, settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = path.with_suffix(".json")
    if facts.exists():
        if found := differences(json.loads(facts.read_text(encoding="utf-8")), settings):
            raise InputError(f"{path} has scores of other settings: {'; '.join(found)}; give another folder, or those settings.")
    else:
        write_json(facts, settings)
    if path.exists():
        whole = b"".join(line + b"\n" for line in whole_lines(path))
        if path.read_bytes() != whole:
            write(path, whole)  # without the line that a kill cut short


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in whole_lines(path)] if path.exists() else []
