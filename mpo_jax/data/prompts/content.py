"""What is in a file of prompts: JSON objects, or a table of columns? A reader recognises its set by it."""

import ast
import csv
import dataclasses
import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mpo_jax.data.json_objects import Place, kind, values
from mpo_jax.data.prompts.base import Prompt


@dataclasses.dataclass(frozen=True)
class Content:
    """The text of a file, read as what it looks like."""

    path: Path
    text: str

    @property
    def is_json(self) -> bool:
        return self.text.lstrip()[:1] in ("[", "{")

    @functools.cached_property
    def values(self) -> list[tuple[str, Any]]:
        """Of a JSON file, each with its place; no other file has any."""
        return values(self.text, self.path) if self.is_json else []

    @property
    def keys(self) -> frozenset[str]:
        """Those of the first JSON object."""
        first = self.values[0][1] if self.values else None
        return frozenset(first) if isinstance(first, dict) else frozenset()

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """The names in the first line of a CSV."""
        try:
            return () if self.is_json else tuple(next(csv.reader(self._lines()), ()))
        except csv.Error:  # a text of a megabyte, for example, is no table
            return ()

    def objects(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        """Errors: a JSON value that is not an object."""
        for where, value in self.values:
            place = Place(where)
            if not isinstance(value, dict):
                raise place.error(f"a prompt must be an object, not {kind(value)}")
            yield place, value

    def rows(self) -> Iterator[tuple[Place, dict[str, str]]]:
        """Of a CSV with a header: column -> text, each with the place where it begins. Errors: a row with more or fewer columns;
        quotes that do not match."""
        lines, begin = csv.reader(self._lines(), strict=True), 1
        try:
            for number, row in enumerate(lines):
                place, begin = self.line(begin), lines.line_num + 1
                if number == 0 or not row:  # the header, an empty line
                    continue
                if len(row) != len(self.columns):
                    raise place.error(
                        f"the row has {len(row)} columns, but the header has {len(self.columns)} ({', '.join(self.columns)}): "
                        "put quotes around a text that has commas or line breaks"
                    )
                yield place, dict(zip(self.columns, row, strict=True))
        except csv.Error as error:
            raise self.line(begin).error(f"the row is not CSV ({error}): put matching quotes around its texts") from None

    def line(self, number: int) -> Place:
        """Counted from 1."""
        return Place(f"{self.path}, line {number}")

    def _lines(self) -> io.StringIO:
        return io.StringIO(self.text, newline="")  # not splitlines: U+2028 may stand within a text


Found = Iterator[tuple[Place, Prompt]]


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """A reader. `looks` says what a file of this set looks like, for people; `fits` tells one by its content; `read` gives all
    of its prompts with their places. A set whose rows have two sides has `read_source` too."""

    name: str
    looks: str
    fits: Callable[[Content], bool]
    read: Callable[[Content], Found]
    read_source: Callable[[Content], Found] | None = None


def names(text: str) -> list[str] | str:
    """The names in a column that was written as a Python list, such as "['Fraud', 'Theft']"; any other text is itself."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else text
