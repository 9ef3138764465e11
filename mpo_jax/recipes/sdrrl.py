"""What does self-distillation from a resource-rich language train on? The model's own answers, in other languages.

Y. Zhang et al., "Enhancing Multilingual Capabilities of Large Language Models through Self-Distillation from Resource-Rich
Languages", arXiv:2402.12204. This is a reconstruction from what its abstract says: neither the code nor how the pairs are mixed
could be read. With q a prompt, a the model's answer to it in the dominant language d, and q_t, a_t their translations:

    (q, a)     (q_t, a_t)     (q_t + "Answer in {d}.", a)     (q + "Answer in {t}.", a_t)     (q with words of t, a)

For supervised fine-tuning, which reads the chosen answer alone: the rejected one repeats it.
"""

import dataclasses
from collections.abc import Iterator

from mpo_jax.clients.languages import language as known_language
from mpo_jax.clients.translators.base import Translation
from mpo_jax.data.prompts.base import Prompt
from mpo_jax.data.rows import PairText, Row
from mpo_jax.errors import InputError
from mpo_jax.files.paths import path_of
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.records import Record
from mpo_jax.recipes import sources, translation
from mpo_jax.recipes.answers import failure, read_answers, write_answers
from mpo_jax.recipes.base import Build, Dropped, Made, MadeRow, Stage
from mpo_jax.recipes.code_switching import read_lexicon, switched
from mpo_jax.recipes.sources import Source

ANSWERS = "answers"
INSTRUCTION = "{prompt}\n\nAnswer in {language}."


@dataclasses.dataclass(frozen=True)
class Sdrrl:
    """Questions and the model's own answers in the dominant language, translated and crossed, for supervised fine-tuning.

    Options:
        max_new_tokens: most tokens of an answer
        cross: also ask in one language for an answer in the other
        code_switch: the share of a question's words that a lexicon has to be replaced by the target language's, in further rows;
          0 makes none
        lexicon: a folder with files like en-sw.txt, a word and its translation a line
        seed: of which words are replaced
    """

    max_new_tokens: int = 512
    cross: bool = True
    code_switch: float = 0.0
    lexicon: str | None = dataclasses.field(default=None, metadata={"file": True})
    seed: int = 0

    def __post_init__(self) -> None:
        Decoding(max_new_tokens=self.max_new_tokens)
        if not 0 <= self.code_switch <= 1:
            raise InputError(f"code_switch={self.code_switch} must be between 0 and 1: the share of words that are replaced.")
        if (self.code_switch > 0) != (self.lexicon is not None):
            raise InputError("code_switch and lexicon belong together: give both, or neither.")

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage(ANSWERS, "model", self._answer), translation.stage(self._texts))

    def usable(self, source: Source) -> str | None:
        return None

    def rows(self, build: Build) -> Made:
        made, dropped = [], []
        answers = self._answers(build)
        for source in build.sources:
            record, name = answers[source.id], source.id
            if (failed := failure(record)) is not None:
                dropped.append(Dropped(name, build.dominant, failed))
                continue
            question = source.texts[build.dominant]
            found = [(f"{name}-{build.dominant}", build.dominant, question, record.text)]
            for language in build.languages:
                meaning = translation.translated(build, language)
                given = source.texts.get(language)
                asked, said = Translation(given) if given is not None else meaning(question), meaning(record.text)
                if (problem := asked.error or said.error) is not None:
                    dropped.append(Dropped(name, language, problem))
                    continue
                found += self._pairs(build, name, language, (question, record.text), (asked.text, said.text))
            for identity, language, prompt, answer in found:
                row = Row(identity, None, PairText(language, prompt, answer, answer), "given")
                made.append(MadeRow(row, {"prompt": name}, record.stopped == "length"))
        return Made(made, dropped)

    def _pairs(
        self, build: Build, name: str, language: str, dominant: tuple[str, str], target: tuple[str, str]
    ) -> Iterator[tuple[str, str, str, str]]:
        """(id, language of the answer, prompt, answer)."""
        yield f"{name}-{language}", language, *target
        if self.cross:
            into = {code: known_language(code).name for code in (build.dominant, language)}
            asked = INSTRUCTION.format(prompt=target[0], language=into[build.dominant])
            yield f"{name}-{language}-{build.dominant}", build.dominant, asked, dominant[1]
            asked = INSTRUCTION.format(prompt=dominant[0], language=into[language])
            yield f"{name}-{build.dominant}-{language}", language, asked, target[1]
        if self.lexicon is not None:
            words = read_lexicon(path_of(self.lexicon), build.dominant, language)
            mixed = switched(dominant[0], words, self.code_switch, f"{self.seed} {name} {language}")
            if mixed != dominant[0]:
                yield f"{name}-{language}-mixed", build.dominant, mixed, dominant[1]

    def _prompts(self, build: Build) -> list[Prompt]:
        return sources.prompts({source.id: source.texts[build.dominant] for source in build.sources}, build.dominant)

    def _answer(self, build: Build) -> str:
        return write_answers(build, ANSWERS, self._prompts(build), Decoding(max_new_tokens=self.max_new_tokens))

    def _answers(self, build: Build) -> dict[str, Record]:
        return {name: record for (_, name, _), record in read_answers(build, ANSWERS, self._prompts(build)).items()}

    def _texts(self, build: Build, language: str) -> Iterator[str]:
        answers = self._answers(build)
        for source in build.sources:
            if failure(answers[source.id]) is None:
                if language not in source.texts:
                    yield source.texts[build.dominant]
                yield answers[source.id].text
