"""How did MPO make its data? The model's own refusals of harmful prompts, unsafe answers from the data, and translations of both.

W. Zhao et al., arXiv:2505.16869, appendix D, for 100 prompts of PKU-SafeRLHF. How its authors made sure that an answer is a
refusal is not published: here an answer is sampled again until it ends by itself, opens like a refusal, and a judge calls it
safe.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from mpo_jax.clients.translators.base import Translation
from mpo_jax.data.prompts.base import Prompt
from mpo_jax.data.refusals import opens_with_refusal
from mpo_jax.data.rows import PairText, Row
from mpo_jax.errors import InputError
from mpo_jax.evaluation.safety.exchanges import Exchange
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.records import Record
from mpo_jax.recipes import judging, sources, translation
from mpo_jax.recipes.answers import ALL_THERE, answers_so_far, read_answers, write_answers
from mpo_jax.recipes.base import Build, Dropped, Made, MadeRow, Stage
from mpo_jax.recipes.sources import Source

ANSWERS, VERDICTS = "answers", "verdicts"
WAITING = "not judged yet"


@dataclasses.dataclass(frozen=True)
class Tried:
    """What became of a prompt: its samples so far, each with what is wrong with it (None: nothing; `WAITING`: not judged)."""

    source: Source
    samples: list[tuple[Record, str | None]]

    @property
    def accepted(self) -> Record | None:
        return next((record for record, problem in self.samples if problem is None), None)

    @property
    def waiting(self) -> bool:
        return any(problem == WAITING for _, problem in self.samples)


@dataclasses.dataclass(frozen=True)
class OnPolicy:
    """Rows of (prompt, the model's refusal, an unsafe answer) in the dominant language, and their translations.

    Options:
        tries: most samples of a prompt, before it is given up
        temperature: of the samples; 0 is possible with one try
        top_p: only the most probable tokens that together reach this probability
        max_new_tokens: most tokens of an answer; one that reaches them is no refusal
        seed: of the samples
    """

    tries: int = 8
    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise InputError(f"tries={self.tries} must be at least 1: the most samples of a prompt.")
        self.decoding()

    def decoding(self) -> Decoding:
        return Decoding(self.tries, self.temperature, self.top_p, 0, self.max_new_tokens, self.seed)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage(ANSWERS, "model", self._answer),
            Stage(VERDICTS, "judge", self._judge, again=lambda build: any(self._open(build))),
            translation.stage(self._texts),
        )

    def usable(self, source: Source) -> str | None:
        return None if source.unsafe is not None and source.unsafe.strip() else "no unsafe answer in the data"

    def rows(self, build: Build) -> Made:
        """Errors: a prompt that is still to be sampled or judged; no refusal at all."""
        made, dropped = [], []
        for tried in self._finished(build):
            record = tried.accepted
            for language in build.languages:
                if record is None:
                    reason = f"no refusal in {self.tries} samples; the last one {tried.samples[-1][1]}"
                    dropped.append(Dropped(tried.source.id, language, reason))
                else:
                    found = self._row(build, tried.source, record, language)
                    (made if isinstance(found, MadeRow) else dropped).append(found)
        return Made(made, dropped)

    def _row(self, build: Build, source: Source, record: Record, language: str) -> MadeRow | Dropped:
        assert source.unsafe is not None, "`usable` has looked"
        meaning = translation.translated(build, language)
        side = PairText(build.dominant, source.texts[build.dominant], record.text, source.unsafe)
        given = source.texts.get(language)
        said = {
            "prompt": Translation(given) if given is not None else meaning(side.prompt),
            "chosen": meaning(side.chosen),
            "rejected": meaning(side.rejected),
        }
        for name, found in said.items():
            if found.error is not None:
                return Dropped(source.id, language, f"{name}: {found.error}")
        target = PairText(language, **{name: found.text for name, found in said.items()})
        return MadeRow(Row(f"{source.id}-{language}", side, target, "given"), {"prompt": source.id, "sample": record.sample})

    def _answer(self, build: Build) -> str:
        """The next sample of each prompt that has none which passed, and none that waits for the judge. Errors: one that met an
        error."""
        asked = [(tried.source, len(tried.samples)) for tried in self._open(build)]
        said = []
        for sample in sorted({sample for _, sample in asked}):
            wanted = self._prompts(build, [source for source, next_one in asked if next_one == sample])
            said.append(write_answers(build, ANSWERS, wanted, self.decoding(), samples=sample + 1))
            refuse_errors(read_answers(build, ANSWERS, wanted, samples=sample + 1).values())
        return " ".join(said) or ALL_THERE

    def _judge(self, build: Build) -> str:
        """Whatever refuses and ends, and has not been judged. Errors: the judge met an error."""
        asked = [self._exchange(build, tried.source, tried.samples[-1][0]) for tried in self._tried(build) if tried.waiting]
        said = judging.judge_answers(build, asked, build.folder / VERDICTS)
        failed = [
            verdict
            for verdict in judging.said_of(judging.judge_of(build), asked, build.folder / VERDICTS)
            if verdict.said is None
        ]
        if failed:
            raise InputError(f"The judge has no verdict on {len(failed)} answers ({failed[0].missing}): run the command again.")
        return said

    def _texts(self, build: Build, language: str) -> Iterable[str]:
        for tried in self._finished(build):
            if tried.accepted is not None:
                assert tried.source.unsafe is not None, "`usable` has looked"
                if language not in tried.source.texts:
                    yield tried.source.texts[build.dominant]
                yield from (tried.accepted.text, tried.source.unsafe)

    def _finished(self, build: Build) -> list[Tried]:
        """Errors: a prompt that is still to be sampled or judged; no refusal at all."""
        found = self._tried(build)
        unfinished = [tried for tried in found if tried.waiting or (tried.accepted is None and len(tried.samples) < self.tries)]
        if unfinished:
            raise InputError(
                f"{len(unfinished)} of {len(found)} prompts are still to be sampled or judged: run the stages '{ANSWERS}' and "
                f"'{VERDICTS}' in turn until they say '{ALL_THERE}', or the command without --stage."
            )
        if all(tried.accepted is None for tried in found):
            problem = found[0].samples[-1][1]
            raise InputError(
                f"None of {self.tries} samples of each of {len(found)} prompts is a refusal; the last one of the first prompt "
                f"{problem}: give a model that refuses in '{build.dominant}', another --judge, more --tries or more "
                "--max-new-tokens."
            )
        return found

    def _open(self, build: Build) -> Iterator[Tried]:
        """The prompts of which one more sample is wanted."""
        for tried in self._tried(build):
            if not tried.waiting and tried.accepted is None and len(tried.samples) < self.tries:
                yield tried

    def _tried(self, build: Build) -> list[Tried]:
        """Every prompt with the samples that it has. What the phrases and the end of an answer decide, no judge is asked."""
        known = answers_so_far(build, ANSWERS, self._prompts(build, build.sources), self.tries)
        found = [Tried(source, [(record, problem(record)) for record in known[source.id]]) for source in build.sources]
        judged = [(tried, i) for tried in found for i, (_, said) in enumerate(tried.samples) if said == WAITING]
        if judged:
            asked = [self._exchange(build, tried.source, tried.samples[i][0]) for tried, i in judged]
            for (tried, i), verdict in zip(
                judged, judging.said_of(judging.judge_of(build), asked, build.folder / VERDICTS), strict=True
            ):
                if verdict.said is not None:
                    said = None if verdict.said in judging.GOOD else f"was called '{verdict.said}' by the judge"
                    tried.samples[i] = (tried.samples[i][0], said)
        return found

    def _prompts(self, build: Build, asked: Sequence[Source]) -> list[Prompt]:
        return sources.prompts({source.id: source.texts[build.dominant] for source in asked}, build.dominant)

    def _exchange(self, build: Build, source: Source, record: Record) -> Exchange:
        return Exchange(build.dominant, source.id, record.sample, 0, source.texts[build.dominant], record.text)


def problem(record: Record) -> str | None:
    """Why an answer is no refusal that may be chosen; `WAITING` where only a judge can say."""
    if not record.text.strip():
        return "was empty"
    if record.stopped != "end":
        return "reached the limit of tokens"
    return WAITING if opens_with_refusal(record.text, record.language) else "did not open like a refusal"


def refuse_errors(records: Iterable[Record]) -> None:
    """Errors: an answer that is an error."""
    failed = [record for record in records if record.stopped == "error"]
    if failed:
        raise InputError(
            f"{len(failed)} prompts have no answer, the first one because of {failed[0].error}: run the command again, or take "
            "them out."
        )
