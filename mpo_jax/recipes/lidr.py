"""How does Language Imbalance Driven Rewarding make pairs? The dominant language's answer is preferred in every language.

W. Yang et al., arXiv:2410.08964. The model answers in both languages and translates both answers itself:

    dominant side: (x_d, chosen y_d, rejected T(y_t -> d))          target side: (x_t, chosen T(y_d -> t), rejected y_t)

The authors decode with a repetition penalty of 1.1, which the engine here does not have.
"""

import dataclasses
import functools
from collections.abc import Mapping

from mpo_jax.data.json_objects import read_text
from mpo_jax.data.rows import PairText, Row
from mpo_jax.files.paths import path_of
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.records import Record
from mpo_jax.recipes import parallel
from mpo_jax.recipes.answers import failure, read_answers, write_answers
from mpo_jax.recipes.base import Build, Dropped, Made, MadeRow, Stage
from mpo_jax.recipes.self_translation import read_self_translations, translation_in, write_self_translations
from mpo_jax.recipes.sources import Source

ANSWERS, SELF = "answers", "self_translations"


@dataclasses.dataclass(frozen=True)
class Lidr:
    """Rows that prefer the dominant language's answer to the target's, by the model's own translations of both.

    Options:
        max_new_tokens: most tokens of an answer
        max_translation_tokens: most tokens of a translation
        about_translation: a file with ids, one a line, of prompts that are themselves about translation: their chosen answer in
          the target language is the dominant one as it is
    """

    max_new_tokens: int = 2400
    max_translation_tokens: int = 4096
    about_translation: str | None = dataclasses.field(default=None, metadata={"file": True})

    def __post_init__(self) -> None:
        for most in (self.max_new_tokens, self.max_translation_tokens):
            Decoding(max_new_tokens=most)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (parallel.STAGE, Stage(ANSWERS, "model", self._answer), Stage(SELF, "model", self._translate))

    def usable(self, source: Source) -> str | None:
        return None

    def rows(self, build: Build) -> Made:
        texts, dropped = parallel.parallel(build)
        answers, meanings = self._answers(build), self._meanings(build)
        made = []
        for language in build.languages:
            for name, prompt in texts[language].items():
                dominant, own = answers[build.dominant, name, 0], answers[language, name, 0]
                failed = failure(dominant) or failure(own)
                if failed is not None:
                    dropped.append(Dropped(name, language, failed))
                    continue
                chosen, no_chosen = self._chosen(name, dominant, meanings, language)
                rejected, no_rejected = translation_in(meanings[own.text, build.dominant])
                if (problem := no_chosen or no_rejected) is not None:
                    dropped.append(Dropped(name, language, problem))
                    continue
                source = PairText(build.dominant, texts[build.dominant][name], dominant.text, rejected)
                row = Row(f"{name}-{language}", source, PairText(language, prompt, chosen, own.text), "given")
                made.append(MadeRow(row, {"prompt": name}, unfinished="length" in (dominant.stopped, own.stopped)))
        return Made(made, dropped)

    def _chosen(
        self, name: str, dominant: Record, meanings: Mapping[tuple[str, str], Record], language: str
    ) -> tuple[str, str | None]:
        return (dominant.text, None) if name in self._untranslated else translation_in(meanings[dominant.text, language])

    @functools.cached_property
    def _untranslated(self) -> frozenset[str]:
        return frozenset() if self.about_translation is None else frozenset(read_text(path_of(self.about_translation)).split())

    def _answer(self, build: Build) -> str:
        return write_answers(build, ANSWERS, parallel.prompts(build), Decoding(max_new_tokens=self.max_new_tokens))

    def _answers(self, build: Build) -> Mapping[tuple[str, str, int], Record]:
        return read_answers(build, ANSWERS, parallel.prompts(build))

    def _translate(self, build: Build) -> str:
        return write_self_translations(build, SELF, self._asked(build), Decoding(max_new_tokens=self.max_translation_tokens))

    def _meanings(self, build: Build) -> Mapping[tuple[str, str], Record]:
        return read_self_translations(build, SELF, self._asked(build))

    def _asked(self, build: Build) -> list[tuple[str, str]]:
        """(text, language to translate it into): dominant answers into each target, the targets' answers into the dominant."""
        answers = self._answers(build)
        asked = []
        for (language, name, _), record in answers.items():
            if language == build.dominant or failure(record) is not None:
                continue
            dominant = answers[build.dominant, name, 0]
            if failure(dominant) is None:
                asked += [(record.text, build.dominant)]
                asked += [] if name in self._untranslated else [(dominant.text, language)]
        return asked
