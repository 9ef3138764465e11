"""How does an exported folder appear only when it is complete?"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from mpo_jax.errors import InputError
from mpo_jax.files import paths
from mpo_jax.files.paths import in_bucket, path_of


def check_export_dir(out_dir: Path | str) -> None:
    """Errors: a folder that exists and is not empty, or that cannot be written. To be called at the start of a run, not its
    end."""
    out_dir = path_of(out_dir)
    if is_whole(out_dir) and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise InputError(f"{out_dir} exists and is not empty, and an export never overwrites: give a new folder.")
    if in_bucket(out_dir):
        return
    try:
        partial = _partial(out_dir)
        partial.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial)
    except OSError as error:
        raise InputError(f"{out_dir} cannot be written ({error.strerror}): give a folder that you may create.") from None


def is_whole(out_dir: Path) -> bool:
    """Whether something is there that is not an unfinished export."""
    return out_dir.exists() and not _partial(out_dir).exists()


@contextlib.contextmanager
def whole_folder(out_dir: Path) -> Iterator[Path]:
    """A folder to write into, which is renamed to `out_dir` once everything is on the disk. A bucket cannot rename folders: there
    it is `out_dir` itself, and a file beside it marks it as unfinished until everything is written. Errors: a full disk."""
    partial = _partial(out_dir)
    if in_bucket(out_dir):
        paths.remove(out_dir)  # what an interruption left
        paths.write(partial, b"This export is being written, or its writing was interrupted.\n")
        yield out_dir
        partial.unlink()
        return
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in partial.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, out_dir)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"The export could not be written to {out_dir} ({error}), and no part of it was kept: make room there, and run the "
            "command again."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial(out_dir: Path) -> Path:
    return out_dir.with_name(out_dir.name + ".partial")
