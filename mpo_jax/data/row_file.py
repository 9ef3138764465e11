"""Where are the rows of a file, and what do they say, when no text stays in memory?

A file is checked once, row by row. What is known of its rows (`row_table.Columns`) is kept, and the text of a row is read from
its place in the file when it is asked for. The rows of a data set of the hub are checked each time.
"""

import functools
import json
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mpo_jax.data.json_objects import objects
from mpo_jax.data.kept import Kept, digest_of
from mpo_jax.data.row_table import METHODS, Columns, RowTable
from mpo_jax.data.rows import HubName, Row, checked, found_rows, hub_objects, hub_rows, read_again
from mpo_jax.errors import InputError
from mpo_jax.files.paths import in_bucket, known_digests


def open_rows(path_or_name: str | Path, *, allow_empty_prompt: bool = False, kept: Kept) -> RowTable:
    """All rows of a file or a Hugging Face data set, in order. Errors: those of `rows.read_rows`; of all rows, whether they are
    read later or not."""
    path = found_rows(path_or_name)
    if isinstance(path, HubName):
        rows = hub_rows(path)
        found = ((where, value, (0, 0)) for where, value in hub_objects(path, rows))
        columns = Columns.of(checked(found, str(path), allow_empty_prompt))
        return RowTable.whole(columns, functools.partial(_row, path, columns, rows.__getitem__))
    key = {"file": _digest(path), "allow_empty_prompt": allow_empty_prompt}
    data = _bytes(path)
    if (found := kept.find("rows", key)) is not None:
        columns = Columns.load(found)
    else:
        columns = Columns.of(checked(objects(data, path), str(path_or_name), allow_empty_prompt))
        with kept.made("rows", key) as folder:
            columns.save(folder)
    return RowTable.whole(columns, functools.partial(_row, path, columns, functools.partial(_value, data, columns.places)))


def _row(path: Path | HubName, columns: Columns, values: Callable[[int], Any], row: int) -> Row:
    source = int(columns.source_language[row])
    languages = (None if source < 0 else columns.languages[source], columns.languages[columns.target_language[row]])
    try:
        return read_again(values(row), columns.id_of(row), languages, METHODS[columns.method[row]])
    except (ValueError, KeyError, TypeError, IndexError):
        raise InputError(f"{path} has changed while it was read: start again.") from None


def _value(data: bytes | mmap.mmap, places: np.ndarray, row: int) -> Any:
    begin, stop = places[row].tolist()
    return json.loads(data[begin:stop])


def _bytes(path: Path) -> bytes | mmap.mmap:
    """Of a local file a map, so that only what is looked at is in memory. Errors: a file that cannot be read."""
    try:
        if in_bucket(path) or not path.stat().st_size:
            return path.read_bytes()
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a readable file.") from None


def _digest(path: Path) -> str:
    try:
        return known_digests(path.parent, (path.name,))[path.name] if in_bucket(path) else digest_of(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a readable file.") from None
