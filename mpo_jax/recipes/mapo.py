"""How does MAPO rank a model's samples? By how well a translation model aligns them with its answers in the dominant language.

S. She et al., "MAPO: Advancing Multilingual Reasoning through Multilingual Alignment-as-Preference Optimization",
arXiv:2401.06838. With E the answers to the same prompt in the dominant language,

    score(y) = mean over e in E of 1 / CE(e | y),      CE: mean over the tokens of e of -log p(token | y)

The mean is over the tokens that are there; in the authors' code it depends on the padding of a batch.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from mpo_jax.data.refusals import opens_with_refusal
from mpo_jax.data.rows import PairText, Row
from mpo_jax.errors import InputError
from mpo_jax.generation.records import Record
from mpo_jax.recipes import chunks, parallel
from mpo_jax.recipes.answers import ALL_THERE, failure, read_answers, write_answers
from mpo_jax.recipes.base import Build, Dropped, Made, MadeRow, Stage, not_run
from mpo_jax.recipes.pairing import all_pairs, pair_of
from mpo_jax.recipes.sampling import Ranked
from mpo_jax.recipes.sources import Source

SAMPLES, SCORES = "samples", "scores"
LEAST = 1e-6  # nats: a translation that is certain has no infinite score


@dataclasses.dataclass(frozen=True)
class Mapo(Ranked):
    """Rows of samples in a target language, the better aligned with the dominant language's answers before the worse.

    Options:
        scorer_dir: NLLB converted for CTranslate2, a folder (docs/safety.md), which scores
        scorer_server: or a server that tells the log-probabilities of a prompt's tokens, such as http://localhost:8000/v1
        scorer_model: the model's name on that server
        samples: answers to each prompt in each language, the dominant one included
        temperature: of the samples
        top_p: only the most probable tokens that together reach this probability
        max_new_tokens: most tokens of a sample
        seed: of the samples
        references: which answers in the dominant language are aligned with, all samples or only those that open like a refusal
        pairs: ends makes one row of the best and the worst sample; all makes one of every two whose scores differ
        source: give each row a source side as MPO needs it, of the first reference and the data's unsafe answer
    """

    scorer_dir: str | None = dataclasses.field(default=None, metadata={"scorer": True})
    scorer_server: str | None = dataclasses.field(default=None, metadata={"scorer": True})
    scorer_model: str | None = dataclasses.field(default=None, metadata={"scorer": True})
    samples: int = 20
    temperature: float = 0.8
    top_p: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0
    references: Literal["samples", "refusals"] = "samples"
    pairs: Literal["ends", "all"] = "ends"
    source: bool = False

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (parallel.STAGE, Stage(SAMPLES, "model", self._sample), Stage(SCORES, "scorer", self._score))

    def usable(self, source: Source) -> str | None:
        return "no unsafe answer in the data" if self.source and not (source.unsafe or "").strip() else None

    def rows(self, build: Build) -> Made:
        texts, dropped = parallel.parallel(build)
        samples, made = self._samples(build), []
        unsafe = {source.id: source.unsafe or "" for source in build.sources}
        for language in build.languages:
            known = chunks.read(build.folder / SCORES / f"{language}.jsonl")
            for name, prompt in texts[language].items():
                references = self._references(build, samples, name)
                answers = _of(samples, language, name)
                if not references or len(answers) < 2:
                    what = "fewer than two samples" if references else f"no {self.references} in {build.dominant}"
                    dropped.append(Dropped(name, language, f"there are {what} that can be used"))
                    continue
                score_K = self._scored(build, known, references, answers)
                side = PairText(build.dominant, texts[build.dominant][name], references[0], unsafe[name]) if self.source else None
                found = list(self._pairs(score_K, answers))
                if not found:
                    dropped.append(Dropped(name, language, "no sample is better aligned than another"))
                for better, worse in found:
                    pair = PairText(language, prompt, answers[better].text, answers[worse].text)
                    numbers = [answers[better].sample, answers[worse].sample]
                    identity = f"{name}-{language}" + ("" if self.pairs == "ends" else f"-{numbers[0]}-{numbers[1]}")
                    origin = {"prompt": name, "samples": numbers, "score": score_K[[better, worse]].tolist()}
                    unfinished = "length" in (answers[better].stopped, answers[worse].stopped)
                    made.append(MadeRow(Row(identity, side, pair, "given"), origin, unfinished))
        return Made(made, dropped)

    def _pairs(self, score_K: np.ndarray, answers: Sequence[Record]) -> list[tuple[int, int]]:
        """(better, worse), whose scores and texts differ."""
        best, worst = pair_of(score_K)
        ends = [(best, worst)] if best is not None and score_K[best] > score_K[worst] else []
        found = ends if self.pairs == "ends" else all_pairs(score_K)
        return [(better, worse) for better, worse in found if answers[better].text != answers[worse].text]

    def _sample(self, build: Build) -> str:
        return write_answers(build, SAMPLES, parallel.prompts(build), self.decoding(), samples=self.samples)

    def _samples(self, build: Build) -> Mapping[tuple[str, str, int], Record]:
        return read_answers(build, SAMPLES, parallel.prompts(build), samples=self.samples)

    def _score(self, build: Build) -> str:
        """Errors: nobody to score; those of the scorer."""
        aligner = build.aligner
        if aligner is None:
            raise InputError("Who scores translations? Give --scorer-dir, or --scorer-server and --scorer-model.")
        samples, missing = self._samples(build), 0
        for language in build.languages:
            asked = [
                (answer.text, reference)
                for source in build.sources
                for reference in self._references(build, samples, source.id)
                for answer in _of(samples, language, source.id)
            ]

            def entropies(part: Sequence[tuple[str, str]], language: str = language) -> list[float]:
                return [cross_entropy(logps) for logps in aligner.logps(part, language, build.dominant)]

            missing += chunks.compute(build.folder / SCORES / f"{language}.jsonl", aligner.settings, asked, entropies)
        return f"{missing} scores" if missing else ALL_THERE

    def _scored(
        self, build: Build, known: Mapping[str, float], references: Sequence[str], answers: Sequence[Record]
    ) -> np.ndarray:
        """The score of each answer, float64 [K]. Errors: one that has not been scored yet."""
        keys = [[chunks.key_of((answer.text, reference)) for reference in references] for answer in answers]
        if any(key not in known for own in keys for key in own):
            raise not_run(SCORES, f"{build.folder / SCORES} lacks the scores of samples of '{answers[0].id}'")
        return np.asarray([score([known[key] for key in own]) for own in keys])

    def _references(self, build: Build, samples: Mapping[tuple[str, str, int], Record], name: str) -> list[str]:
        """Distinct answers in the dominant language without a line that is repeated."""
        texts = [record.text for record in _of(samples, build.dominant, name)]
        wanted = [text for text in texts if self.references == "samples" or opens_with_refusal(text, build.dominant)]
        return [text for text in dict.fromkeys(wanted) if not repeats_itself(text)]


def score(entropies: Sequence[float]) -> float:
    """MAPO's score of an answer, of the cross-entropies (nats a token) of the references given it."""
    return float(np.mean([1 / max(entropy, LEAST) for entropy in entropies]))


def cross_entropy(logps: Sequence[float]) -> float:
    """Nats a token. Errors: a text without tokens."""
    if not logps:
        raise InputError("The scorer told no log-probability of a reference: give another scorer.")
    return -float(np.mean(logps))


def repeats_itself(text: str) -> bool:
    lines = collections.Counter(line.strip() for line in text.split("\n") if line.strip())
    return max(lines.values(), default=0) > 1


def _of(samples: Mapping[tuple[str, str, int], Record], language: str, name: str) -> list[Record]:
    """The samples of a prompt that are answers."""
    found, sample = [], 0
    while (record := samples.get((language, name, sample))) is not None:
        found += [record] if failure(record) is None else []
        sample += 1
    return found
