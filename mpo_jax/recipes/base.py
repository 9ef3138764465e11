"""What is a recipe? Stages that ask a model, a translator or a judge and leave files, and a pure function from these to rows.

A recipe is a frozen dataclass: its fields are the options of `python -m mpo_jax.build`, and its docstring has a line about each.
A stage does what its files lack, so that it may be killed at any moment, run again, or run on another machine.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from mpo_jax.clients.judges.base import Judge
from mpo_jax.clients.translators.base import Translator
from mpo_jax.data.rows import Row
from mpo_jax.errors import InputError
from mpo_jax.recipes.alignment import Aligner
from mpo_jax.recipes.own_model import OnDevices, OwnModel
from mpo_jax.recipes.sources import Source

Who = Literal["model", "translator", "judge", "scorer"]


@dataclasses.dataclass(frozen=True)
class Build:
    """What rows are made of, by whom, and in which folder. `languages`: the target languages, without the `dominant` one.

    Whoever is None is not at hand, and a stage that needs them says so. `model` writes the answers. `load` gives a model of these
    devices by its folder or hub name, to score with. `translator`: target language -> a translator. `aligner` says how probable a
    translation is.
    """

    folder: Path
    sources: Sequence[Source]
    dominant: str
    languages: tuple[str, ...]
    model: OwnModel | None = None
    load: Callable[[str], OnDevices] | None = None
    translator: Callable[[str], Translator] | None = None
    judge: Judge | None = None
    aligner: Aligner | None = None

    @property
    def own(self) -> OwnModel:
        """Errors: no model was given."""
        if self.model is None:
            raise InputError("No model was given to write answers: give --model, or --server and --served-model.")
        return self.model

    def translates(self, language: str) -> Translator:
        """Into this language. Errors: no translator was given."""
        if self.translator is None:
            raise InputError(f"There is no translator into '{language}': give one with --translate.")
        return self.translator(language)


@dataclasses.dataclass(frozen=True)
class Stage:
    """`run` does what the stage's files lack, and says what it did in a line. `who` is asked. `again` says whether the stages up
    to this one have to run once more, as where answers are sampled until they pass."""

    name: str
    who: Who
    run: Callable[[Build], str]
    again: Callable[[Build], bool] = lambda build: False


@dataclasses.dataclass(frozen=True)
class MadeRow:
    """A row, and where it comes from, as JSON: numbers of samples, rewards. `unfinished`: an answer in it reached the limit of
    tokens."""

    row: Row
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unfinished: bool = False


@dataclasses.dataclass(frozen=True)
class Dropped:
    """What became no row. `language`: the target's; `id`: of the prompt."""

    id: str
    language: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Made:
    rows: list[MadeRow]
    dropped: list[Dropped]


class Recipe(Protocol):
    """A frozen dataclass. Fields whose metadata has `model=True` name models, those with `file=True` a file or a folder of .txt
    files, and those with `scorer=True` say who an `Aligner` is: in a manifest digests stand for all of them."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """In their order."""
        ...

    def usable(self, source: Source) -> str | None:
        """Why a prompt cannot be used, in words; None where it can."""
        ...

    def rows(self, build: Build) -> Made:
        """Reads the stages' files. Errors: a stage that has not run yet."""
        ...


def meanings(recipe: type[Any]) -> dict[str, str]:
    """Option -> what it means: the lines "    name: meaning" at the end of a recipe's docstring."""
    found: dict[str, str] = {}
    name = None
    for line in (recipe.__doc__ or "").splitlines():
        if begun := re.fullmatch(r" {8}(\w+): (.+)", line):
            name = begun[1]
            found[name] = begun[2]
        elif name is not None and (more := re.fullmatch(r" {10,}(\S.*)", line)):
            found[name] += f" {more[1]}"
    return found


def not_run(stage: str, what: str) -> InputError:
    return InputError(f"{what}: run the command with --stage {stage} first, or without --stage.")
