"""Where are a checkpoint's tensors, and how is part of one read? In safetensors files, whose headers give types and offsets."""

import dataclasses
import functools
import json
import math
import operator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (safetensors and numpy find bfloat16 through it)
import numpy as np
from safetensors import SafetensorError, safe_open

from mpo_jax.errors import InputError
from mpo_jax.files import hub, paths
from mpo_jax.files.paths import in_bucket, read_range

INDEX = "model.safetensors.index.json"
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # safetensors' names, and numpy's


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a tensor is stored, and what its file's header says about it."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors spells it

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        # The file is opened for every read: pages of a mapped file count as memory until it is closed.
        with _open(self.path) as file:
            return file.get_slice(self.name)[index]


@dataclasses.dataclass(frozen=True)
class StoredInBucket(Stored):
    """Knows also at which byte of the file the tensor begins: an object cannot be mapped, but any range of it can be read."""

    begin: int

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        # Full rows are one range, whereas columns would be one range a row: so devices that need other columns share the rows
        # read.
        rows, kept = index[0].indices(self.shape[0])[:2], _kept(self)
        if rows not in kept:
            size = np.dtype(FLOATS[self.dtype]).itemsize * math.prod(self.shape[1:])
            data = read_range(self.path, *(self.begin + size * row for row in rows))
            kept[rows] = np.frombuffer(data, FLOATS[self.dtype]).reshape(-1, *self.shape[1:])
        return kept[rows][:, *index[1:]]


@functools.lru_cache(maxsize=1)
def _kept(stored: StoredInBucket) -> dict[tuple[int, int], np.ndarray]:
    """The rows read so far of the tensor that is being loaded."""
    return {}


def catalogue(folder: Path) -> dict[str, Stored]:
    """Every tensor of the folder's safetensors files."""
    hub.require_safetensors(folder)
    indexed = (folder / INDEX).is_file()
    there = _indexed(folder) if indexed else {"model.safetensors": (folder / "model.safetensors").is_file()}
    stored = {}
    for name, is_there in there.items():
        if not is_there:
            why = f"{INDEX} lists it" if indexed else f"there is no {INDEX} either"
            raise InputError(f"{folder} has no {name} ({why}): download the folder again.")
        stored |= tensors_of(folder / name)
    return stored


# How the tensors of a text model are called within a model with text and images: published, and since transformers 4.52.
WITHIN = {"language_model.model.": "model.", "language_model.lm_head.": "lm_head.", "model.language_model.": "model."}
BESIDE = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")


def text_model(stored: dict[str, Stored]) -> tuple[dict[str, Stored], tuple[str, ...]]:
    """(the tensors of the text model by the names that they have where it is alone, the names of those beside it)."""

    def alone(name: str) -> str:
        return next((new + name.removeprefix(old) for old, new in WITHIN.items() if name.startswith(old)), name)

    beside = tuple(name for name in stored if name.startswith(BESIDE))
    return {alone(name): of for name, of in stored.items() if name not in set(beside)}, beside


def weights_beside(folder: Path) -> list[str]:
    """What the folder has of the same weights in another layout, that of Meta's and Mistral's own code."""
    files = [path.name for path in folder.glob("consolidated*") if path.suffix in (".safetensors", ".pth", ".pt")]
    return sorted(files) + (["original/"] if (folder / "original").is_dir() else [])


def tensors_of(path: Path) -> dict[str, Stored]:
    """Every tensor of one file. Errors: a file that is not complete."""
    return _tensors_in_bucket(path) if in_bucket(path) else _tensors(path)


def _indexed(folder: Path) -> dict[str, bool]:
    """The files that the index names, and whether they are there."""
    try:
        names = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        return {name: (folder / name).is_file() for name in sorted(names)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise InputError(f"{folder / INDEX} is not an index of safetensors files ({error!r}): download it again.") from None


def _tensors(path: Path) -> dict[str, Stored]:
    with _open(path) as file:
        headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (the file is not a dict)
        return {name: Stored(path, name, tuple(of.get_shape()), of.get_dtype()) for name, of in headers.items()}


def _tensors_in_bucket(path: Path) -> dict[str, Stored]:
    """Reads the format itself, since safetensors only reads local files: 8 bytes with the length of a JSON header, the header,
    the data of one tensor after the other."""
    size = paths.size(path)
    begin = 8 + int.from_bytes(read_range(path, 0, min(8, size)), "little")
    if not 8 < begin <= size:
        raise _incomplete(path, f"its {size} bytes do not hold its header")
    try:
        headers: dict[str, Any] = json.loads(read_range(path, 8, begin))
        headers.pop("__metadata__", None)
        found: dict[str, Stored] = {}
        end = begin
        for name, of in sorted(headers.items(), key=lambda item: item[1]["data_offsets"]):
            shape, (start, stop) = tuple(map(operator.index, of["shape"])), of["data_offsets"]
            size_of = np.dtype(FLOATS[of["dtype"]]).itemsize * math.prod(shape) if of["dtype"] in FLOATS else stop - start
            if min(shape, default=0) < 0 or begin + start != end or stop - start != size_of:
                raise ValueError(f"{name} of shape {shape} cannot lie at bytes {start} to {stop}")
            found[name] = StoredInBucket(path, name, shape, of["dtype"], end)
            end = begin + operator.index(stop)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _incomplete(path, error) from None
    if end != size:
        raise _incomplete(path, f"{size} bytes, but its header implies {end}")
    return found


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise _incomplete(path, error) from None


def _incomplete(path: Path, reason: object) -> InputError:
    return InputError(f"{path} is not a complete safetensors file ({reason}): download or copy it again.")
