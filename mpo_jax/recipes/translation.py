"""What do texts of the dominant language mean in the target languages? A stage that several recipes share.

OUT/translations/LANGUAGE/          what the translator was asked and said
OUT/translations/LANGUAGE.jsonl     {"text", "translation"} or {"text", "error"}, which is all that later stages read
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mpo_jax.clients.translators.base import Text, Translation, translate, translations
from mpo_jax.data.json_objects import read_values
from mpo_jax.errors import InputError
from mpo_jax.files.json_files import replace_text
from mpo_jax.recipes.answers import ALL_THERE
from mpo_jax.recipes.base import Build, Stage, not_run

FOLDER = "translations"


def stage(texts: Callable[[Build, str], Iterable[str]], name: str = FOLDER) -> Stage:
    """`texts`: what of the dominant side is wanted in a target language."""
    return Stage(name, "translator", lambda build: _run(build, texts))


def translated(build: Build, language: str, stage: str = FOLDER) -> "Translated":
    """Errors: nothing has been translated yet."""
    return Translated.read(_file(build, language), stage)


class Translated:
    """The translations into one language that a build has so far."""

    def __init__(self, path: Path, stage: str, known: Mapping[str, Translation]):
        self._path, self._stage, self._known = path, stage, known

    @classmethod
    def read(cls, path: Path, stage: str) -> "Translated":
        if not path.is_file():
            raise not_run(stage, f"{path} does not exist")
        known = {}
        for where, value in read_values(path):
            if not isinstance(value, dict) or "text" not in value:
                raise InputError(f"{where}: this is no translation: delete the file, and run the stage '{stage}' again.")
            known[value["text"]] = Translation(value.get("translation", ""), value.get("error"))
        return cls(path, stage, known)

    def __call__(self, text: str) -> Translation:
        """Errors: a text that has not been translated yet."""
        if text not in self._known:
            raise not_run(self._stage, f"{self._path} lacks a text that is there to be translated")
        return self._known[text]


def _run(build: Build, texts: Callable[[Build, str], Iterable[str]]) -> str:
    said = []
    for language in build.languages:
        wanted = list(dict.fromkeys(Text(build.dominant, text) for text in texts(build, language)))
        if not wanted:
            continue
        translator, folder = build.translates(language), build.folder / FOLDER / language
        summary = translate(wanted, translator, folder)
        said.append(f"{language}: {ALL_THERE if summary is None else summary.sentence()}")
        _write(_file(build, language), {text.text: found for text, found in translations(wanted, translator, folder).items()})
    return " ".join(said) or "nothing to translate"


def _write(path: Path, fresh: Mapping[str, Translation]) -> None:
    lines = []
    for text, found in fresh.items():
        said = {"translation": found.text} if found.error is None else {"error": found.error}
        lines.append(json.dumps({"text": text, **said}) + "\n")
    replace_text(path, "".join(lines))


def _file(build: Build, language: str) -> Path:
    return build.folder / FOLDER / f"{language}.jsonl"
