"""What is in these files? Digests of their bytes, read as streams, many files at a time."""

import concurrent.futures
import hashlib
from collections.abc import Iterable
from pathlib import Path

from mpo_jax.devices import processes
from mpo_jax.files.paths import in_bucket, known_digests

SAMPLES, SAMPLE = 64, 2**16  # pieces of a large file, and bytes of one


def digests(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    """Name within `folder` -> digest of each file that matches one of the patterns, in the order of the names. In a bucket they
    are computed from the checksums that the server keeps, and nothing is read."""
    if in_bucket(folder):
        return known_digests(folder, patterns)
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    with concurrent.futures.ThreadPoolExecutor() as pool:  # blake2b holds no lock, and a big model has many files
        found = processes.progress(pool.map(_digest, paths), total=len(paths), desc="digests", unit="file", delay=2)
        return {path.relative_to(folder).as_posix(): digest for path, digest in zip(paths, found, strict=True)}


def sampled(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    """Like `digests`, but reads only the size, the beginning and `SAMPLES` more pieces of a large file: enough to tell one model
    from another, and cheap enough for every process of a run."""
    if in_bucket(folder):
        return known_digests(folder, patterns)
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return {path.relative_to(folder).as_posix(): _sample(path) for path in paths}


def fingerprint(files: dict[str, str]) -> str:
    """One digest of the names and bytes of files, from `digests`."""
    named = "".join(f"{name} {digest}\n" for name, digest in files.items())
    return hashlib.blake2b(named.encode(), digest_size=16).hexdigest()


def _sample(path: Path) -> str:
    size = path.stat().st_size
    found = hashlib.blake2b(str(size).encode())
    with path.open("rb") as file:
        for start in sorted({size * i // SAMPLES for i in range(SAMPLES)}) if size > SAMPLES * SAMPLE else range(0, size, SAMPLE):
            file.seek(start)
            found.update(file.read(SAMPLE))
    return found.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
