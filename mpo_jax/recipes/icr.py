"""How does Implicit Cross-Lingual Rewarding rank samples? By the reward that two models give them after the dominant prompt.

W. Yang et al., "Implicit Cross-Lingual Rewarding for Efficient Multilingual Preference Alignment", arXiv:2503.04647. For a sample
y of the prompt x_l in the language l, of which the dominant language has x_d:

    z_l = "Please answer the following instruction using only {l}, unless ..." + x_d        (x_d alone where l is dominant)
    r   = log p_numerator(y | z_l) - log p_denominator(y | z_l)                             sum over tokens
    row = (x_l, argmax, argmin of r - alpha_l * characters(y))                              alpha_l: see `pairing.length_penalty`

What the paper leaves open are options: which model is the numerator (by default the one that answers) and which the denominator.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mpo_jax.clients.languages import language as known_language
from mpo_jax.data.rows import PairText, Row
from mpo_jax.errors import InputError
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.records import Record
from mpo_jax.recipes import chunks, parallel, rewards
from mpo_jax.recipes.answers import ALL_THERE, failure, read_answers, write_answers
from mpo_jax.recipes.base import Build, Dropped, Made, MadeRow, Stage, not_run
from mpo_jax.recipes.own_model import OnDevices
from mpo_jax.recipes.pairing import length_penalty, pair_of
from mpo_jax.recipes.sampling import Ranked
from mpo_jax.recipes.self_translation import read_self_translations, translation_in, write_self_translations
from mpo_jax.recipes.sources import Source

SAMPLES, SELF, SCORES = "samples", "self_translations", "scores"
PREFIX = (
    "Please answer the following instruction using only {language}, unless explicitly instructed to respond in a different "
    "language.\n\n"
)


MOST_OF_TRANSLATION = 8192  # tokens

Samples = Mapping[tuple[str, str, int], Record]  # (language, id, sample) -> what the model said


@dataclasses.dataclass(frozen=True)
class Table:
    """Rewards (nats; NaN where a sample has none) and lengths (characters) of the samples of one language, float64 [N, K]."""

    names: Sequence[str]
    reward_NK: np.ndarray
    length_NK: np.ndarray

    def pairs(self, length_control: bool, bound: float | None) -> dict[str, dict[str, Any] | str]:
        """Prompt -> which samples are best and worst, and by what; or why there is no pair."""
        few = np.sum(~np.isnan(self.reward_NK), axis=1) < 2
        whole = ~few
        alpha = length_penalty(self.reward_NK[whole], self.length_NK[whole]) if length_control and whole.any() else 0.0
        score_NK = self.reward_NK - alpha * self.length_NK
        found: dict[str, dict[str, Any] | str] = {}
        for n, name in enumerate(self.names):
            if few[n]:
                found[name] = "fewer than two samples have a reward"
                continue
            best, worst = pair_of(score_NK[n], bound)
            if best is None:
                found[name] = "no sample is below --upper-bound"
            elif score_NK[n, best] <= score_NK[n, worst]:
                found[name] = "no sample is better than another"
            else:
                at = [best, worst]
                facts = {"reward": self.reward_NK[n, at].tolist(), "characters": self.length_NK[n, at].astype(int).tolist()}
                found[name] = {"samples": at, **facts, "alpha": alpha}
        return found


@dataclasses.dataclass(frozen=True)
class Icr(Ranked):
    """Rows of the best and the worst of several samples of a prompt in a language, the dominant one included, by implicit reward.

    Options:
        denominator: the model under the fraction, a folder or a hub name, such as the one before preference training
        numerator: the model above it (default: the one that answers)
        samples: answers to each prompt in each language
        temperature: of the samples
        top_p: only the most probable tokens that together reach this probability
        max_new_tokens: most tokens of a sample
        seed: of the samples
        reward: cross_lingual scores a sample after the dominant prompt and an instruction about its language; multilingual after
          its own prompt; translated scores its translation by the model itself after the dominant prompt
        length_control: subtract alpha * characters, with the alpha of each language that makes best and worst equally long
        upper_bound: samples whose adjusted reward reaches this cannot be chosen
        source: give each row the dominant language's row of the same prompt as its source side, as MPO needs it
        compat_shift: leave out each sample's first token, as the authors' scorer does
    """

    denominator: str | None = dataclasses.field(default=None, metadata={"model": True})
    numerator: str | None = dataclasses.field(default=None, metadata={"model": True})
    samples: int = 10
    temperature: float = 0.9
    top_p: float = 1.0
    max_new_tokens: int = 2400
    seed: int = 42
    reward: Literal["cross_lingual", "multilingual", "translated"] = "cross_lingual"
    length_control: bool = True
    upper_bound: float | None = None
    source: bool = False
    compat_shift: bool = False

    @property
    def stages(self) -> tuple[Stage, ...]:
        translating = (Stage(SELF, "model", self._translate),) if self.reward == "translated" else ()
        return (parallel.STAGE, Stage(SAMPLES, "model", self._sample), *translating, Stage(SCORES, "devices", self._score))

    def usable(self, source: Source) -> str | None:
        return None

    def rows(self, build: Build) -> Made:
        texts, dropped = parallel.parallel(build)
        samples = self._samples(build)
        scored = self._scored(build, samples)
        pairs: dict[str, dict[str, tuple[PairText, dict[str, Any], bool]]] = {}
        for language, prompts in texts.items():
            table = self._table(language, list(prompts), samples, scored)
            pairs[language] = {}
            for name, found in table.pairs(self.length_control, self.upper_bound).items():
                if isinstance(found, str):
                    dropped.append(Dropped(name, language, found))
                    continue
                best, worst = (samples[language, name, i] for i in found["samples"])
                pair = PairText(language, prompts[name], best.text, worst.text)
                if best.text == worst.text:
                    dropped.append(Dropped(name, language, "the best and the worst sample are the same text"))
                else:
                    pairs[language][name] = pair, found, "length" in (best.stopped, worst.stopped)
        return Made(*self._joined(build, pairs, dropped))

    def _joined(
        self, build: Build, pairs: Mapping[str, Mapping[str, tuple[PairText, dict[str, Any], bool]]], dropped: list[Dropped]
    ) -> tuple[list[MadeRow], list[Dropped]]:
        """Rows of one side in every language; or, with `source`, those of the target languages with the dominant pair."""
        made = []
        dominant = pairs[build.dominant]
        for language, found in pairs.items():
            if self.source and language == build.dominant:
                continue
            for name, (pair, origin, unfinished) in found.items():
                if self.source and name not in dominant:
                    dropped.append(Dropped(name, language, f"there is no pair in {build.dominant}"))
                    continue
                side = dominant[name][0] if self.source else None
                row = Row(f"{name}-{language}", side, pair, "given")
                made.append(MadeRow(row, {"prompt": name, **origin}, unfinished or (self.source and dominant[name][2])))
        return made, dropped

    def _sample(self, build: Build) -> str:
        return write_answers(build, SAMPLES, parallel.prompts(build), self.decoding(), samples=self.samples)

    def _samples(self, build: Build) -> Samples:
        return read_answers(build, SAMPLES, parallel.prompts(build), samples=self.samples)

    def _to_translate(self, build: Build) -> list[tuple[str, str]]:
        return [
            (record.text, build.dominant)
            for (language, _, _), record in self._samples(build).items()
            if language != build.dominant and failure(record) is None
        ]

    def _translate(self, build: Build) -> str:
        return write_self_translations(build, SELF, self._to_translate(build), Decoding(max_new_tokens=MOST_OF_TRANSLATION))

    def _score(self, build: Build) -> str:
        """Errors: no second model; models of different vocabularies."""
        if build.load is None or self.denominator is None:
            raise InputError("A reward needs two models: give --denominator, such as the model before preference training.")
        over, under = self._models(build)
        rewards.check_vocabularies(over, under)
        exchanges = list(self._exchanges(build, self._samples(build)).values())
        missing = 0
        for name, model in (("numerator", over), ("denominator", under)):
            missing += rewards.write_logps(build.folder / SCORES / f"{name}.jsonl", model, exchanges, shift=self.compat_shift)
            model.release()  # before the other one's weights are read
        return f"{missing} scores" if missing else ALL_THERE

    def _models(self, build: Build) -> tuple[OnDevices, OnDevices]:
        """(numerator, denominator). Errors: the model that answers is a served one, and there is no other numerator."""
        assert build.load is not None and self.denominator is not None, "`_score` has looked"
        if self.numerator is not None:
            return build.load(self.numerator), build.load(self.denominator)
        if not isinstance(build.model, OnDevices):
            raise InputError("Scores are computed on these devices: give --numerator, a folder with the model that answers.")
        return build.model, build.load(self.denominator)

    def _exchanges(self, build: Build, samples: Samples) -> dict[tuple[str, str, int], tuple[str, str]]:
        """(language, id, sample) -> (what the scorers read as the prompt, as the answer), of all samples that can be scored."""
        texts, found = parallel.parallel(build)[0], {}
        meanings = read_self_translations(build, SELF, self._to_translate(build)) if self.reward == "translated" else {}
        for (language, name, sample), record in samples.items():
            answer, problem = record.text, failure(record)
            if problem is None and (answer, build.dominant) in meanings and language != build.dominant:
                answer, problem = translation_in(meanings[answer, build.dominant])
            if problem is None:
                prompt = texts[language if self.reward == "multilingual" else build.dominant][name]
                if self.reward == "cross_lingual" and language != build.dominant:
                    prompt = PREFIX.format(language=known_language(language).name) + prompt
                found[language, name, sample] = prompt, answer
        return found

    def _scored(self, build: Build, samples: Samples) -> dict[tuple[str, str, int], float]:
        """(language, id, sample) -> its reward, of those that can be scored. Errors: one that has not been scored yet."""
        folder, found = build.folder / SCORES, {}
        known = rewards.read_rewards(folder / "numerator.jsonl", folder / "denominator.jsonl")
        for slot, exchange in self._exchanges(build, samples).items():
            if (key := chunks.key_of(exchange)) not in known:
                raise not_run(SCORES, f"{folder} has no score of sample {slot[2]} of '{slot[1]}' in '{slot[0]}'")
            found[slot] = known[key]
        return found

    def _table(self, language: str, names: list[str], samples: Samples, scored: Mapping[tuple[str, str, int], float]) -> Table:
        shape = (len(names), self.samples)
        reward_NK, length_NK = np.full(shape, np.nan), np.zeros(shape)
        for n, name in enumerate(names):
            for k in range(self.samples):
                reward_NK[n, k] = scored.get((language, name, k), np.nan)
                length_NK[n, k] = len(samples[language, name, k].text)
        return Table(names, reward_NK, length_NK)
