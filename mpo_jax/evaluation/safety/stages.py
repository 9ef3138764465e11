"""Which stage of measuring safety reads what? Responses, translations, verdicts, table: each from the files of those before.

OUT/model/responses/            the answers (see `generation.records`), and OUT/compare/responses/ those of a second model
OUT/translations/TRANSLATOR/    what texts mean in English, of both models
OUT/model/verdicts/JUDGE/       what a judge replied, and the same under compare/
OUT/model/verdicts/JUDGE.jsonl  its verdict on each answer, in the order of the prompts
OUT/asr.json, OUT/asr.png       the table; refusals.json and .png of the judge `phrases`

A stage needs nothing but these files and the prompts, so each can run on another machine, and does what is missing.
"""

import collections
import dataclasses
import functools
import json
from pathlib import Path

from mpo_jax.clients.judges.base import Judge
from mpo_jax.clients.translation_checks import checked
from mpo_jax.clients.translators.base import Text, Translation, Translator, translate, translations
from mpo_jax.data.prompts.base import Prompt
from mpo_jax.errors import InputError
from mpo_jax.evaluation.safety import agreement, exchanges, relation, report, sheet, verdicts
from mpo_jax.evaluation.safety.exchanges import Exchange, Reading
from mpo_jax.evaluation.safety.rates import table
from mpo_jax.evaluation.safety.verdicts import Verdict
from mpo_jax.files.json_files import replace_text
from mpo_jax.generation.run import Summary

STAGES = ("responses", "translations", "verdicts", "table")
MODELS = ("model", "compare")
LABELS = {"model": "before", "compare": "after"}  # where there are two


@dataclasses.dataclass(frozen=True)
class Study:
    """What is measured, in which folder. `prompts`: those that are asked; `every`: all of their set. `samples`: answers to
    each."""

    output: Path
    prompts: list[Prompt]
    every: list[Prompt]
    samples: int
    translator: Translator | None

    def responses(self, model: str) -> Path:
        return self.output / model / "responses"

    @functools.cached_property
    def answers(self) -> dict[str, list[Exchange]]:
        """Of each model that has a folder. Errors: none has; those of `exchanges.exchanges`."""
        there = [model for model in MODELS if self.responses(model).is_dir()]
        if not there:
            raise InputError(f"{self.output} has no answers: run the command with --model, or with --stage responses first.")
        return {
            model: exchanges.exchanges(self.prompts, self.every, self.responses(model), samples=self.samples) for model in there
        }

    def label(self, model: str) -> str:
        """As tables call it: a model alone, or one before and one after."""
        return LABELS[model] if len(self.answers) > 1 else "model"

    def texts(self, languages: frozenset[str] | None) -> list[Text]:
        """What a judge of these languages reads in English, of all models."""
        return list(dict.fromkeys(text for found in self.answers.values() for text in exchanges.texts(found, languages)))

    def translate(self, languages: frozenset[str] | None) -> Summary | None:
        """Writes the translations that are missing, and what is odd in any of them. Errors: no translator; those of
        `translate`."""
        if self.translator is None:
            raise InputError("There is no translator: give one with --translate, or leave this stage out.")
        folder, texts = self.output / "translations" / self.translator.name, self.texts(languages)
        summary = translate(texts, self.translator, folder)
        found = checked(self._translations(texts), self.translator.target)
        if found:
            lines = [
                json.dumps({"language": t.language, "text": t.text, "findings": f}, ensure_ascii=False) for t, f in found.items()
            ]
            text = "".join(line + "\n" for line in lines)
            replace_text(self.output / "translations" / f"{self.translator.name}.findings.jsonl", text)
        return summary

    def _translations(self, texts: list[Text]) -> dict[Text, Translation]:
        assert self.translator is not None
        folder = self.output / "translations" / self.translator.name
        return dict(translations(texts, self.translator, folder))

    def findings(self, languages: frozenset[str] | None) -> dict[str, dict[str, int]]:
        """Language -> what is odd in its translations -> how often."""
        if self.translator is None:
            return {}
        counts: dict[str, collections.Counter[str]] = {}
        for text, found in checked(self._translations(self.texts(languages)), self.translator.target).items():
            counts.setdefault(text.language, collections.Counter()).update(found)
        return {language: dict(sorted(counts[language].items())) for language in sorted(counts)}

    def readings(self, name: str, languages: frozenset[str] | None) -> dict[str, list[Reading]]:
        """Model -> what the judge of this name and these languages reads of each exchange."""
        known = None if self.translator is None else self._translations(self.texts(languages))
        return {model: exchanges.readings(found, name, languages, known) for model, found in self.answers.items()}

    def judge(self, judge: Judge) -> dict[str, Summary | None]:
        """Writes the replies that are missing. Errors: those of `verdicts.judge_all`."""
        read = self.readings(judge.name, judge.languages)
        return {
            self.label(model): verdicts.judge_all(found, read[model], judge, self._folder(model, judge))
            for model, found in self.answers.items()
        }

    def verdicts(self, judge: Judge) -> dict[str, list[Verdict]]:
        """Label -> what the judge said. Errors: nothing said at all; those of `verdicts.verdicts`."""
        read = self.readings(judge.name, judge.languages)
        for model in self.answers:
            if not self._folder(model, judge).is_dir():
                there = sorted(path.name for path in self._folder(model, judge).parent.glob("*") if path.is_dir())
                others = f" (there are those of {', '.join(there)})" if there else ""
                raise InputError(
                    f"{self.output} has no verdicts of the judge '{judge.name}' on {self.label(model)}{others}: run the command "
                    "with --stage verdicts and this judge first."
                )
        return {
            self.label(model): verdicts.verdicts(found, read[model], judge, self._folder(model, judge))
            for model, found in self.answers.items()
        }

    def sample_for_people(self, path: Path, count: int) -> int:
        """See `sheet.sample_for_people`."""
        read = self.readings("people", None)
        return sheet.sample_for_people(path, count, {model: (found, read[model]) for model, found in self.answers.items()})

    def tabulate(self, judge: Judge, *, gaps: Path | None = None, second: Judge | None = None) -> str:
        """Writes the table, and returns it for the terminal. `gaps`: a reward_gap.json. `second`: another judge, whose verdicts
        are there. Errors: those of `verdicts` and of what is compared."""
        said = self.verdicts(judge)
        for model in self.answers:
            lines = "".join(verdict.line() + "\n" for verdict in said[self.label(model)])
            replace_text(self.output / model / "verdicts" / f"{judge.name}.jsonl", lines)
        also = {} if second is None else self.verdicts(second)
        agreements = {
            label: agreement.agreement((judge.name, judge.scale, said[label]), (second.name, second.scale, also[label]))
            for label in said
            if second is not None
        }
        first = judge.scale.rates[0].key
        relations = {
            label: relation.relation(relation.read_gaps(gaps, label), table(found, judge.scale), first)
            for label, found in said.items()
            if gaps is not None
        }
        translated = "none" if self.translator is None else self.translator.name
        beside = report.Beside(translated, self.findings(judge.languages), relations, agreements)
        return report.write_report(self.output, judge, said, beside)

    def _folder(self, model: str, judge: Judge) -> Path:
        return self.output / model / "verdicts" / judge.name
