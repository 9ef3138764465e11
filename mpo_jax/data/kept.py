"""What does a run keep on disk for later ones, and when may they trust it?

An entry is a folder of files and `entry.json`, which names the key, that is everything that the contents depend on, and size and
digest of each file. It appears whole or not at all. One that is damaged, or that something else wrote, is removed and made again.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpo_jax.errors import InputError
from mpo_jax.files.paths import path_of

ENTRY = "entry.json"
_PIECE = 2**26  # bytes that are hashed together, so that all cores work on a large file
_ABANDONED = 86400.0  # seconds after which what a killed process has left is removed
_PACKAGES = ("tokenizers", "transformers", "py3langid")


@dataclasses.dataclass(frozen=True)
class Kept:
    """Entries in `folder`, which several processes may share; '' keeps nothing. Errors: a folder that cannot be written."""

    folder: str = ""

    def find(self, kind: str, key: dict[str, Any]) -> Path | None:
        """The folder of the entry, None where there is none that can be trusted."""
        if not self.folder:
            return None
        path, named = self._path(kind, key)
        try:
            entry = json.loads((path / ENTRY).read_text(encoding="utf-8"))
            if entry["key"] == named and all(_facts(path / name) == facts for name, facts in entry["files"].items()):
                return path
        except FileNotFoundError:
            if not path.exists():
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        shutil.rmtree(path, ignore_errors=True)
        return None

    @contextlib.contextmanager
    def made(self, kind: str, key: dict[str, Any]) -> Iterator[Path]:
        """An empty folder to fill, which is the entry afterwards. What fails inside leaves nothing."""
        if not self.folder:
            with tempfile.TemporaryDirectory(prefix="mpo_jax-") as folder:
                yield Path(folder)
            return
        path, named = self._path(kind, key)
        with self._written():
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path.parent)
            partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=path.parent))
        try:
            with self._written():
                yield partial
                files = {file.name: _facts(file) for file in sorted(partial.iterdir())}
                (partial / ENTRY).write_text(json.dumps({"key": named, "files": files}), encoding="utf-8")
            with contextlib.suppress(OSError):  # another process was faster, and its entry is the same
                os.rename(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _path(self, kind: str, key: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        if "://" in self.folder:
            raise InputError(
                f"data.cache={self.folder} is no folder of this machine, so it cannot be mapped into memory: give one that is."
            )
        named = json.loads(json.dumps(key | {"code": code()}))
        name = hashlib.blake2b(json.dumps(named, sort_keys=True).encode(), digest_size=16).hexdigest()
        return path_of(self.folder) / f"{kind}-{name}", named

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"data.cache={self.folder} cannot be written ({error.strerror}): give another folder, or keep nothing with "
                "--config.data.cache=."
            ) from error


def code() -> str:
    """A digest of the code that makes entries: the modules of this package and the versions of those that they use."""
    found = hashlib.blake2b(digest_size=16)
    for module in sorted(Path(__file__).parent.glob("*.py")):
        found.update(module.read_bytes())
    for package in _PACKAGES:
        found.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    return found.hexdigest()


def digest_of(path: Path) -> str:
    """Of the bytes of a local file, in pieces on all cores."""

    def piece(start: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return hashlib.blake2b(file.read(_PIECE), digest_size=16).digest()

    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        pieces = b"".join(pool.map(piece, range(0, path.stat().st_size, _PIECE)))
    return hashlib.blake2b(pieces, digest_size=16).hexdigest()


def _facts(file: Path) -> list[Any]:
    return [file.stat().st_size, digest_of(file)]


def _sweep(folder: Path) -> None:
    for left in folder.glob(".partial-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
