"""Where are a frozen model's scores kept between runs? In float32 arrays on disk, filled in order, beside a manifest.

FOLDER/manifest.json    {"key": what determines the numbers, "done": entries whose data is durable}
FOLDER/NAME/            a zarr (version 3) array with a checksum a chunk, its first axis counting entries
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from mpo_jax.errors import InputError
from mpo_jax.files.json_files import differences, write_json
from mpo_jax.files.paths import kvstore


class ScoreStore:
    """Owns one folder of arrays. `shapes`: the full shape of each array by name, (entries, ...), with the same `entries`.

    Nothing is written before the first `append`. The manifest is written after the data of each `append` is on disk, so an
    interruption costs that one batch. Errors: a folder made for another key, a manifest or an array that cannot be read.
    """

    def __init__(self, folder: Path, key: dict[str, Any], shapes: dict[str, tuple[int, ...]]):
        self._folder = folder
        self._key = key
        self._shapes = shapes
        self.entries = next(iter(shapes.values()))[0]
        self.done = self._kept()

    def append(self, values: dict[str, np.ndarray]) -> None:
        """Adds the next entries, the same number to every array, as chunks of their own; returns when they are on disk."""
        fresh = self.done == 0
        stop = self.done + len(next(iter(values.values())))
        try:
            arrays = {name: self._create(name, x.shape) if fresh else self._open(name) for name, x in values.items()}
            for written in [array[self.done : stop].write(values[name]) for name, array in arrays.items()]:
                written.result()
            write_json(self._folder / "manifest.json", {"key": self._key, "done": stop})
        except (OSError, ValueError) as error:  # tensorstore raises a ValueError for any problem with a file
            raise self._unusable("cannot be written", error) from error
        self.done = stop

    def read(self) -> dict[str, np.ndarray]:
        """All arrays. Errors also: missing entries, for example where the first process writes to a folder that this one cannot
        see."""
        if (done := self._kept()) != self.entries:
            raise self._unusable("is not complete", f"{done} of {self.entries} entries")
        arrays = {}
        for name, shape in self._shapes.items():
            try:
                arrays[name] = self._open(name).read().result()
            except (OSError, ValueError) as error:
                raise self._unusable("cannot be read", error) from error
            if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():  # a missing chunk reads as NaN
                raise self._unusable("is not complete", f"{name} lacks entries")
        return arrays

    def _kept(self) -> int:
        path = self._folder / "manifest.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            key, done = manifest["key"], int(manifest["done"])
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._unusable("has an unreadable manifest.json", error) from error
        if difference := differences(key, self._key):
            raise InputError(
                f"The reference scores in {self._folder} are of another reference or of other data: {'; '.join(difference)}; "
                "give another --config.reference_store, or delete that folder."
            )
        return done

    def _create(self, name: str, chunk: tuple[int, ...]) -> Any:
        metadata = {
            "shape": self._shapes[name],
            "data_type": "float32",
            "fill_value": "NaN",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        }
        return ts.open(self._spec(name) | {"metadata": metadata}, create=True, delete_existing=True).result()

    def _open(self, name: str) -> Any:
        return ts.open(self._spec(name)).result()

    def _spec(self, name: str) -> dict[str, Any]:
        return {"driver": "zarr3", "kvstore": kvstore(self._folder / name)}

    def _unusable(self, what: str, error: Exception | str) -> InputError:
        reason = str(error).split(" [")[0].splitlines()[0]
        return InputError(
            f"The reference store {self._folder} {what} ({reason}): delete that folder, and the scores are computed again."
        )
