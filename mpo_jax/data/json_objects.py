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
PIECE = 2**20  # bytes of an array that are read at a time
_TAIL = 16  # characters: what ends so near to the end of a piece may go on in the next one, as a number or "-Infinity" does
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
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
        raise _not_text(path, error.start) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a readable file.") from None


def read_values(path: Path) -> list[tuple[str, Any]]:
    """`values` of a file's text."""
    return values(read_text(path), path)


def values(text: str, path: Path) -> list[tuple[str, Any]]:
    """Those of a JSON array, or one a line, each with its place, such as "FILE, line 3". Errors: those of `objects`."""
    return [(where, value) for where, value, _ in objects(text.encode(), path)]


def objects(data: bytes | mmap.mmap, path: Path) -> Iterator[tuple[str, Any, tuple[int, int]]]:
    """As `values`, of a file's bytes: one after the other, each also with the bytes where it stands, so that no more than a value
    and a piece of the file is in memory. Errors: what is not UTF-8 or not JSON."""
    if data[:_HEAD].removeprefix(_BOM).lstrip()[:1] == b"[":
        return ((f"{path}, row {row}", *found) for row, found in enumerate(elements(data, path)))
    return _lines(data, path)


def _lines(data: bytes | mmap.mmap, path: Path) -> Iterator[tuple[str, Any, tuple[int, int]]]:
    begin = _begin(data)
    for number in itertools.count(1):
        stop = data.find(b"\n", begin)  # not splitlines: U+2028 may stand within a JSON string
        stop = len(data) if stop < 0 else stop
        try:
            line = data[begin:stop].decode()
        except UnicodeDecodeError as error:
            raise _not_text(path, begin + error.start) from None
        if line.strip():
            yield f"{path}, line {number}", _read(line, path, number), (begin, stop)
        if stop >= len(data):
            return
        begin = stop + 1


def _read(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {number}, is not JSON ({error.msg}): write one JSON object a line.") from None
    except (ValueError, RecursionError):
        raise _too_much(path, number) from None


def elements(data: bytes | mmap.mmap, path: Path) -> Iterator[tuple[Any, tuple[int, int]]]:
    """Those of a JSON array that is all of a file, each with the bytes where it stands. Errors: as `objects`."""
    text = _Window(data, path)
    text.take("[")
    if text.next() != "]":
        yield text.value()
        while text.next() != "]":
            text.take(",")
            yield text.value()
    text.take("]")
    if text.next():
        raise text.error("Extra data")


class _Window:
    """Owns the part of a file's text that is looked at: pieces of `PIECE` bytes, as many as the value in hand needs."""

    def __init__(self, data: bytes | mmap.mmap, path: Path):
        self._data, self._path = data, path
        self._text, self._at = "", 0  # what comes before `_at` is done with
        self._byte = self._read = _begin(data)  # where `_text[_at]` stands, and what has not been read yet
        self._line, self._column = 1, 1  # of `_text[0]`

    def next(self) -> str:
        """The first character that is not white space, '' at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None
            self._move(space.end())
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, mark: str) -> None:
        """Goes on behind this mark. Errors: another character."""
        if self.next() != mark:
            raise self.error(f"Expecting '{mark}' delimiter")
        self._move(self._at + 1)

    def value(self) -> tuple[Any, tuple[int, int]]:
        self.next()
        while True:
            try:
                value, stop = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.pos > len(self._text) - _TAIL or error.msg.startswith("Unterminated string")
                if is_cut and self._more():
                    continue
                raise self.error(error.msg, error.pos) from None
            except (ValueError, RecursionError):
                raise _too_much(self._path, self._place(self._at)[0]) from None
            if stop <= len(self._text) - _TAIL or not self._more():
                begin = self._byte
                self._move(stop)
                return value, (begin, self._byte)

    def error(self, problem: str, at: int | None = None) -> InputError:
        line, column = self._place(self._at if at is None else at)
        return InputError(f"{self._path}, line {line}, column {column}, is not JSON ({problem}): repair the file.")

    def _place(self, at: int) -> tuple[int, int]:
        """The line and the column, from 1, of a place in the text."""
        line_begins = self._text.rfind("\n", 0, at) + 1
        column = at - line_begins + (1 if line_begins else self._column)
        return self._line + self._text.count("\n", 0, at), column

    def _move(self, to: int) -> None:
        self._byte += len(self._text[self._at : to].encode())
        self._at = to

    def _more(self) -> bool:
        """Drops what is done with and doubles what is left, so that a long value is not tried too often; False, and nothing done,
        at the end of the file."""
        if self._read == len(self._data):
            return False
        (self._line, self._column), left = self._place(self._at), self._text[self._at :]
        pieces, length = [left], 0
        while length <= len(left) and (piece := self._piece()):
            pieces.append(piece)
            length += len(piece)
        self._text, self._at = "".join(pieces), 0
        return True

    def _piece(self) -> str:
        piece = self._data[self._read : self._read + PIECE]
        try:
            text = piece.decode()
        except UnicodeDecodeError as error:
            if error.end < len(piece) or self._read + len(piece) == len(self._data):
                raise _not_text(self._path, self._read + error.start) from None
            piece = piece[: error.start]  # the rest of a character comes with the next piece
            text = piece.decode()
        self._read += len(piece)
        return text


def _begin(data: bytes | mmap.mmap) -> int:
    """The first byte that is not of a byte order mark."""
    return len(_BOM) if data[: len(_BOM)] == _BOM else 0


def _not_text(path: Path, byte: int) -> InputError:
    return InputError(f"{path} is not UTF-8 text (byte {byte}): save it as UTF-8.")


def _too_much(path: Path, line: int) -> InputError:
    """Python reads no integer of more than 4300 digits."""
    return InputError(
        f"{path}, line {line}, cannot be read, since a number in it is too long or its brackets are nested too deeply: write it "
        "shorter, or take it out."
    )


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
