"""What was a folder of data made of? Settings that must stay, models that must stay once they are known, and what came of it.

OUT/manifest.json   {"recipe", "settings", "models", "asked", "dropped", "rows"}
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mpo_jax
from mpo_jax.devices import processes
from mpo_jax.errors import InputError
from mpo_jax.files.json_files import differences, write_json
from mpo_jax.generation.records import SETTINGS, read_settings

FILE = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """`settings`: all that determines rows beside the models, and is the same in every run. `models`: what a model, a translator
    or a judge is known by; a run that does not need one may leave it out."""

    recipe: str
    settings: Mapping[str, Any]
    models: Mapping[str, Any]

    def kept_in(self, folder: Path) -> None:
        """The folder is one of these settings and models from now on. Errors: it is one of others, with the difference; a file in
        its place; a folder of something else."""
        processes.on_first(lambda: self._keep(folder))

    def _keep(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file: give a folder for the data.")
        facts = json.loads(json.dumps({"recipe": self.recipe, "settings": self.settings, "models": self.models}))
        kept = read(folder)
        if kept is None:
            if folder.exists() and (others := sorted(path.name for path in folder.iterdir() if path.suffix != ".partial")):
                raise InputError(f"{folder} is a folder of something else ({others[0]}): give a new folder for the data.")
            folder.mkdir(parents=True, exist_ok=True)
            kept = {"recipe": self.recipe, "settings": facts["settings"], "models": {}}
        given = {**facts, "models": {**kept["models"], **facts["models"]}}
        # A model that was not known so far becomes known.
        before = {name: kept["models"].get(name, now) for name, now in given["models"].items()}
        if found := differences({**kept, "models": before}, {**kept, **given}):
            raise InputError(f"{folder} holds data of something else: {'; '.join(found)}; give another folder, or what it was.")
        write_json(folder / FILE, {**kept, **given})


def read(folder: Path) -> dict[str, Any] | None:
    """None where there is none. Errors: a file that is no manifest."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found.keys() >= {"recipe", "settings", "models"}:
        raise InputError(f"{path} is no manifest of data: give another folder for the data.")
    return found


def finish(folder: Path, results: Mapping[str, Any]) -> None:
    """Adds what came of it, and what everybody was asked with."""
    kept = read(folder)
    assert kept is not None, "`kept_in` has written it"
    asked = {str(path.parent.relative_to(folder)): read_settings(path.parent) for path in sorted(folder.rglob(SETTINGS))}
    write_json(folder / FILE, {**kept, "mpo_jax": mpo_jax.__version__, "asked": asked, **results})
