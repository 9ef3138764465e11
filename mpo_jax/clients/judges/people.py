"""What do people say? A sheet of answers to fill in, a CSV that spreadsheets open, and its verdicts, read back as a judge's.

A row is known by a digest of its query and response, so the texts may be wrapped or reformatted in a spreadsheet, and a row of an
answer that has changed since is nobody's.
"""

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mpo_jax.clients.judges.base import THREE_CLASSES, Judge
from mpo_jax.data.json_objects import read_text
from mpo_jax.data.prompts.base import Message
from mpo_jax.errors import InputError
from mpo_jax.files.paths import write
from mpo_jax.generation.base import Request, Response

COLUMNS = ("key", "language", "id", "query", "response", "as_written", "verdict")


@dataclasses.dataclass(frozen=True)
class Row:
    """An exchange to be judged, as a judge of three classes reads it. `as_written`: the response before any translation."""

    language: str
    id: str
    query: str
    response: str
    as_written: str

    @property
    def key(self) -> str:
        return key(self.query, self.response)


class People:
    """A `Responder` that knows what the sheet says: key -> what was written there."""

    shared = False

    def __init__(self, said: dict[str, str]):
        self._said = said

    @property
    def settings(self) -> dict[str, Any]:
        canonical = json.dumps(self._said, sort_keys=True).encode()
        return {"sheet": hashlib.blake2b(canonical, digest_size=8).hexdigest()}

    def respond(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Response]]:
        for request in requests:
            yield request, Response(self._said[_key_of(request.messages)], "end", None, None)


def write_sheet(path: Path, rows: Sequence[Row]) -> None:
    """With an empty column for the verdicts, and the byte order mark that spreadsheets tell UTF-8 by."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(COLUMNS)
    for row in rows:
        lines.writerow([row.key, row.language, row.id, *map(_plain, (row.query, row.response, row.as_written)), ""])
    write(path, text.getvalue().encode("utf-8-sig"))


def read_sheet(path: Path) -> dict[str, str]:
    """Key -> verdict, of the rows that have one. Errors: no such sheet, another table, a verdict that is none."""
    text = read_text(path)
    try:
        sample = text.partition("\n")[0]
        rows = list(
            csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if sample.count(";") > sample.count(",") else ",")
        )
    except csv.Error as error:
        raise InputError(f"{path} is not CSV ({error}): save the sheet as CSV.") from None
    if not rows or not {"key", "verdict"} <= rows[0].keys():
        raise InputError(f"{path} must have the columns {', '.join(COLUMNS)}: fill in the sheet that --sample-for-people wrote.")
    said = {}
    for number, row in enumerate(rows, start=2):
        verdict = (row["verdict"] or "").strip().lower()
        if verdict and verdict not in THREE_CLASSES.verdicts:
            raise InputError(
                f"{path}, row {number} says '{verdict}': write one of {', '.join(THREE_CLASSES.verdicts)}, or nothing."
            )
        if verdict:
            said[row["key"]] = verdict
    if not said:
        raise InputError(f"{path} has no verdict yet: fill in its column 'verdict'.")
    return said


def judge(path: Path) -> Judge:
    """Of the rows on the sheet, as they stand there: with the translations of the translator that it was written with."""
    said = read_sheet(path)
    return Judge(
        name=f"people-{path.stem}",
        scale=THREE_CLASSES,
        languages=None,
        messages=lambda query, response: (Message("user", query), Message("assistant", response)),
        parse=lambda text: text if text in THREE_CLASSES.verdicts else None,
        responder=lambda: People(said),
        judges=lambda messages: _key_of(messages) in said,
    )


def key(query: str, response: str) -> str:
    """The digest that a row is known by."""
    return hashlib.blake2b(json.dumps([query, response]).encode(), digest_size=8).hexdigest()


def _key_of(messages: Sequence[Message]) -> str:
    query, response = (message.content for message in messages)
    return key(query, response)


def _plain(text: str) -> str:
    """Shown as text: a spreadsheet would compute what begins with one of these."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
