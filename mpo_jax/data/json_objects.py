"""Which JSON values does a file hold, and where does each stand?

Text is kept as it is given: nothing is stripped or repaired. The first fault found is an error that names its place.
"""

import dataclasses
import itertools
import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpo_jax.errors import InputError

_BOM = b"\xef\xbb\xbf"
_HEAD = 2**16  # bytes at the beginning of a file, in which its first character is looked for
_HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair: JSON can escape one alone, and no text is made of it


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a value was found, for error messages."""

    where: str

    def error(self, problem: str) -> InputError:
        return InputError(f"{self.where}: {problem}.")


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark. Errors: a file that cannot be read or is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a readable file.") from None


def read_values(path: Path) -> list[tuple[str, Any]]:
    """`values` of a file's text."""
    return values(read_text(path), path)


def values(text: str, path: Path) -> list[tuple[str, Any]]:
    """Those of a JSON array, or one a line, each with its place, such as "FILE, line 3". Errors: what is not JSON."""
    if text.lstrip().startswith("["):
        return [(f"{path}, row {i}", value) for i, value in enumerate(_read(text, path, 1, "repair the file"))]
    lines = enumerate(text.split("\n"), start=1)  # not splitlines: U+2028 may stand within a JSON string
    return [
        (f"{path}, line {number}", _read(line, path, number, "write one JSON object a line"))
        for number, line in lines
        if line.strip()
    ]


def is_array(data: bytes | mmap.mmap) -> bool:
    """Whether a file is one JSON array, and not a value a line."""
    return data[:_HEAD].removeprefix(_BOM).lstrip()[:1] == b"["


def lines(data: bytes | mmap.mmap, path: Path) -> Iterator[tuple[str, Any, tuple[int, int]]]:
    """As `values`, of a value a line: one after the other, each also with the bytes where it stands. Errors: what is not UTF-8 or
    not JSON."""
    begin = len(_BOM) if data[: len(_BOM)] == _BOM else 0
    for number in itertools.count(1):
        stop = data.find(b"\n", begin)
        stop = len(data) if stop < 0 else stop
        try:
            line = data[begin:stop].decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text (byte {begin + error.start}): save it as UTF-8.") from None
        if line.strip():
            yield f"{path}, line {number}", _read(line, path, number, "write one JSON object a line"), (begin, stop)
        if stop >= len(data):
            return
        begin = stop + 1


def _read(text: str, path: Path, number: int, advice: str) -> Any:
    """The value of a text that begins in line `number` of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {number + error.lineno - 1}, is not JSON ({error.msg}): {advice}.") from None
    except (ValueError, RecursionError):  # Python reads no integer of more than 4300 digits
        raise InputError(
            f"{path}, line {number}, cannot be read, since a number in it is too long or its brackets are nested too deeply: "
            f"{advice}."
        ) from None


def string(value: Any, key: str, place: Place) -> str:
    """Errors: anything else, or half of a character."""
    if not isinstance(value, str):
        raise place.error(f"'{key}' must be a string, not {kind(value)}")
    if half := _HALF.search(value):
        raise place.error(f"'{key}' has \\u{ord(half[0]):04x}, half of a character: write the whole character, or take it out")
    return value


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)
