"""Where is this path? In a file system, or in a bucket of Google Cloud Storage (`gs://`), where the same code reads and writes.

A bucket differs in four ways, each handled by one function here: its objects cannot be appended to, folders cannot be renamed in
one step, some libraries can only write local files, and the server keeps a checksum of every object.
"""

import contextlib
import errno
import functools
import hashlib
import importlib.util
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from mpo_jax.errors import InputError

BUCKET = "gs://"
EVERY = 30.0  # seconds at least between two writings of a file that grows


def path_of(path: str | Path) -> Path:
    """A path as the user wrote it, `~` included. In a bucket it is an etils path, which has pathlib's methods but is broken by
    pathlib's constructor: never call `Path` on it. Errors: a bucket that does not exist or that this account may not use; an
    unknown kind of storage."""
    text = os.fspath(path)
    if "://" not in text:
        return Path(text).expanduser()
    if not text.startswith(BUCKET):
        raise InputError(
            f"{text} is not a supported kind of path: write gs://BUCKET/FOLDER for Google Cloud Storage, or a path in a file "
            "system."
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError(f"{text} needs the package gcsfs: run `pip install gcsfs`, or give a local path.")
    from etils import epath

    found = cast(Path, epath.Path(text))
    try:
        _ask(_bucket(found))
    except Exception as error:  # see `_reason`
        raise InputError(
            f"{text} cannot be read ({_reason(error)}): check the bucket's name, and that this account may list and read it (on "
            "a cloud VM the account is its service account, elsewhere the one that GOOGLE_APPLICATION_CREDENTIALS names)."
        ) from error
    return found


def output_folder(given: str) -> Path:
    """The folder of --output. Errors: a file in its place."""
    folder = path_of(given)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder} is a file: give a folder.")
    return folder


def in_bucket(path: Path) -> bool:
    return str(path).startswith(BUCKET)


def absolute(path: Path) -> Path:
    return path if in_bucket(path) else path.resolve()  # etils would look for a local folder named gs:


def kvstore(folder: Path) -> dict[str, str]:
    """What tensorstore calls this folder."""
    if not in_bucket(folder):
        return {"driver": "file", "path": f"{folder.resolve()}/"}
    return {"driver": "gcs", "bucket": _bucket(folder), "path": f"{'/'.join(folder.parts[3:])}/"}


def try_writing(folder: Path) -> None:
    """Errors: OSError with the reason where no file can be created in the folder."""
    if not in_bucket(folder):
        folder.mkdir(parents=True, exist_ok=True)
    trial = folder / ".writable"
    try:
        write(trial, b"")
        trial.unlink()
        if in_bucket(folder):  # Orbax asks what kind of bucket it is, which takes more than the permission to read objects
            _client().call("GET", "b/{}", _bucket(folder), json_out=True)
    except Exception as error:  # see `_reason`
        raise OSError(errno.EACCES, _reason(error)) from error


def write(path: Path, data: bytes) -> None:
    """Afterwards the file is the old one or the new one, never a half-written one."""
    if in_bucket(path):
        path.write_bytes(data)  # an object appears when all of it is there
        return
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


class Lines:
    """Owns a text file that lines are appended to. An object in a bucket cannot grow, so it is rewritten: at most every `EVERY`
    seconds, and for at most 1 % of the time. A kill may therefore lose the lines since the last flush."""

    def __init__(self, path: Path):
        self._path = path
        if in_bucket(path):
            self._file: IO[str] = io.StringIO(path.read_text(encoding="utf-8") if path.exists() else "")
            self._file.seek(0, io.SEEK_END)
        else:
            self._file = path.open("a", encoding="utf-8")
        self._next, self._fresh = time.monotonic() + EVERY, False

    def write(self, line: str) -> None:
        with naming(self._path):
            self._file.write(line + "\n")
        self._fresh = True
        if not in_bucket(self._path) or time.monotonic() > self._next:
            self.flush()

    def flush(self) -> None:
        """Returns when other processes can see all lines."""
        with naming(self._path):
            self._file.flush()
        if isinstance(self._file, io.StringIO) and self._fresh:
            begin = time.monotonic()
            write(self._path, self._file.getvalue().encode())
            took = time.monotonic() - begin
            self._next = time.monotonic() + max(EVERY, 100 * took)
        self._fresh = False

    def close(self) -> None:
        self.flush()
        self._file.close()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds this path to an `OSError` about a file that is already open, which has no file name."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextlib.contextmanager
def written_locally(path: Path) -> Iterator[Path]:
    """A local path, for libraries that can only write local files. What they wrote lies at `path` afterwards."""
    if not in_bucket(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / path.name
        yield staged
        files = [staged] if staged.is_file() else [file for file in staged.rglob("*") if file.is_file()]
        for file in files:
            _client().put_file(str(file), str(path / file.relative_to(staged)))


@contextlib.contextmanager
def read_locally(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """A local folder with those of the named files that `folder` has."""
    if not in_bucket(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as local:
        for name in names:
            if (folder / name).is_file():
                copy(folder / name, Path(local) / name)
        yield Path(local)


def copy(source: Path, target: Path) -> None:
    """A small file."""
    target.write_bytes(source.read_bytes())


def read_range(path: Path, start: int, stop: int) -> bytes:
    """Of an object in a bucket."""
    return _client().cat_file(str(path), start=start, end=stop)


def size(path: Path) -> int:
    """Of an object in a bucket, in bytes."""
    return _client().info(str(path))["size"]


def move(folder: Path, to: Path) -> None:
    """Replaces what is there. In a bucket files are moved one by one, so an interruption can leave some in either place."""
    remove(to)
    if in_bucket(folder):
        for name in _files(folder, "**"):
            _client().mv_file(f"{folder}/{name}", f"{to}/{name}")
        return
    to.parent.mkdir(exist_ok=True)
    os.replace(folder, to)


def remove(folder: Path) -> None:
    """The folder and everything in it, if it exists."""
    if not in_bucket(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        _client().rm(str(folder), recursive=True)


def known_digests(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    """Name within a folder of a bucket -> a digest of the checksum and size that the server keeps of each file."""
    found = {name: info for pattern in patterns for name, info in _files(folder, pattern).items()}
    name_it = lambda info: hashlib.blake2b(f"{info['crc32c']} {info['size']}".encode(), digest_size=16).hexdigest()  # noqa: E731
    return {name: name_it(found[name]) for name in sorted(found)}


def _files(folder: Path, pattern: str) -> dict[str, dict[str, Any]]:
    """Name within a folder of a bucket -> what the server says of the file."""
    found = _client().glob(f"{folder}/{pattern}", detail=True)
    start = len(str(folder).removeprefix(BUCKET)) + 1
    return {name[start:]: info for name, info in found.items() if info["type"] == "file"}


@functools.cache
def _client() -> Any:
    """gcsfs, as etils uses it."""
    os.environ.setdefault("EPATH_USE_TF", "false")  # else TensorFlow, where it is installed, would answer, with errors of its own
    import fsspec.config

    # tensorstore and other processes write there too, so listings are not cached.
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
    return fsspec.filesystem("gs")


@functools.cache
def _ask(bucket: str) -> None:
    """Returns if this account can list the bucket."""
    _client().call("GET", "b/{}/o", bucket, maxResults=1, json_out=True)


def _bucket(path: Path) -> str:
    return str(path).removeprefix(BUCKET).partition("/")[0]


def _reason(error: Exception) -> str:
    """What an error says in a line; those of gcsfs, aiohttp and Google's packages for credentials have no common base."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:300] or type(error).__name__
