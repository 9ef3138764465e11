"""How is a recipe carried out? Stage after stage, or one of them alone; then rows, from the stages' files."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mpo_jax.errors import InputError, check_choice
from mpo_jax.files.digests import digests, fingerprint
from mpo_jax.files.paths import path_of
from mpo_jax.recipes import manifest, sources
from mpo_jax.recipes.base import Build, Recipe, Stage
from mpo_jax.recipes.judged_rows import judge_rows
from mpo_jax.recipes.manifest import Manifest
from mpo_jax.recipes.writing import RULES, Written, write_rows

ROWS = "rows"  # the last stage of every recipe, which asks nobody
JUDGED = "judged"  # a stage that runs only when it is named: a judge reads every answer of the rows


def carry_out(
    name: str,
    recipe: Recipe,
    build: Build,
    *,
    models: Mapping[str, Any],
    stage: str | None = None,
    drop: Sequence[str] = (),
    left_out: Mapping[str, int] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Written | None:
    """Does what the folder lacks, and tells `say` a line of each stage. None where `stage` names one that writes no rows.

    `name`: the recipe's, in the registry. `models`: what those that are at hand are known by, as JSON. `drop`: rules of
    `writing.RULES`. `left_out`: prompts that were not used, reason -> number. Errors: an unknown rule; a folder of something
    else; those of the stages; several processes for a stage that asks others than models of these devices.
    """
    names = [one.name for one in recipe.stages]
    if stage is not None:
        check_choice("stage", stage, (*names, ROWS, JUDGED))
    wanted = [one for one in recipe.stages if stage in (None, one.name)]
    if jax.process_count() > 1 and (stage in (None, ROWS, JUDGED) or any(one.who != "model" for one in wanted)):
        own = ", ".join(one.name for one in recipe.stages if one.who == "model")
        raise InputError(
            f"These {jax.process_count()} processes would wait for others than the model: give --stage with one of {own} here, "
            "and run the other stages in one process."
        )
    for rule in drop:
        check_choice("drop", rule, RULES)
    Manifest(name, settings_of(recipe, build), models).kept_in(build.folder)
    _run(wanted, build, say, repeat=stage is None)
    if stage == JUDGED:
        say(f"{JUDGED}: {judge_rows(build)}")
    if stage not in (None, ROWS):
        return None
    written = write_rows(build.folder, recipe.rows(build), drop)
    results = {"left_out": dict(left_out or {}), "drop": list(drop), "dropped": written.dropped, "rows": written.rows}
    manifest.finish(build.folder, results)
    say(f"{ROWS}: {written.sentence()}")
    return written


def settings_of(recipe: Recipe, build: Build) -> dict[str, Any]:
    """All that determines the rows beside the models."""
    options = {}
    for field in dataclasses.fields(recipe):  # pyright: ignore[reportArgumentType]
        value = getattr(recipe, field.name)
        if field.metadata.get("file") and value is not None:
            options[field.name] = _digest(path_of(value))
        elif not (field.metadata.get("model") or field.metadata.get("scorer")):
            options[field.name] = value
    prompts = {"number": len(build.sources), "digest": sources.digest(build.sources)}
    return {"dominant": build.dominant, "languages": list(build.languages), "prompts": prompts, "options": options}


def _digest(path: Path) -> str:
    """Of a file, or of a folder of .txt files. Errors: there is neither."""
    if not path.exists():
        raise InputError(f"{path} does not exist: give a file, or a folder of .txt files.")
    return fingerprint(digests(path, ("*.txt",)) if path.is_dir() else digests(path.parent, (path.name,)))


def _run(stages: Sequence[Stage], build: Build, say: Callable[[str], None], *, repeat: bool) -> None:
    at = 0
    while at < len(stages):
        say(f"{stages[at].name}: {stages[at].run(build)}")
        at = 0 if repeat and stages[at].again(build) else at + 1
