"""How do answers that a model of the small world wrote itself become rows of preference data?

As in three recipes (docs/data.md), whose functions of scores decide here too. Texts are token ids, and a length is a number of
tokens.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.experiments.measuring import implicit_rewards
from mpo_jax.experiments.transfer import Subject
from mpo_jax.experiments.world import DOMINANT, END, LANGUAGES, TARGETS, TOKENS_A_WORD, Noise, Request, World
from mpo_jax.experiments.writing import LONGEST_ANSWER, answers
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.engine import Engine
from mpo_jax.recipes import mapo
from mpo_jax.recipes.pairing import length_penalty, pair_of
from mpo_jax.types import Params

SAMPLED = Decoding(samples=8, temperature=0.9, max_new_tokens=LONGEST_ANSWER)
SELF_TRANSLATION = Noise(words=0.1)  # of the model's translations of its own refusals
MISTAKEN = 0.1  # probability that the dictionary of `translation_logps` gives any word at all

After = Literal["dominant", "own"]  # whose prompt an answer is scored after
Samples = Sequence[Sequence[np.ndarray]]  # request -> sample -> int32 ids


@dataclasses.dataclass(frozen=True)
class Asked:
    """A seed's requests, the model that answers them, and what writes its greedy answers and its samples."""

    subject: Subject
    requests: Sequence[Request]
    params: Params
    greedy: Engine
    sampler: Engine

    def prompts(self, language: str) -> list[np.ndarray]:
        return [self.subject.world.prompt(language, request) for request in self.requests]

    def pairs(self, language: str) -> list[TokenPair]:
        """The right answers before the wrong ones."""
        return [better(self.subject.world, language, request) for request in self.requests]

    def parallel(self, language: str, found: dict[int, TokenPair]) -> list[Example]:
        """Rows of a target language with their dominant pair."""
        dominant = self.pairs(DOMINANT)
        return [Example(f"{i}.{language}", language, dominant[i], pair) for i, pair in found.items()]


def better(world: World, language: str, request: Request) -> TokenPair:
    """Chosen: the refusal of an unsafe request, the compliance with a safe one."""
    pair = world.pair(language, request)
    return pair if request.unsafe else TokenPair(pair.prompt, pair.rejected, pair.chosen)


def dominant_alone(asked: Asked) -> list[Example]:
    return [Example(str(i), DOMINANT, None, pair) for i, pair in enumerate(asked.pairs(DOMINANT))]


def translated(asked: Asked) -> list[Example]:
    """As of a translator without mistakes."""
    return _by_request([asked.parallel(language, dict(enumerate(asked.pairs(language)))) for language in TARGETS])


def rewarded(after: After) -> Callable[[Asked], list[Example]]:
    """Rows of Implicit Cross-Lingual Rewarding, the dominant language included, with the reward of the model that answers over
    the base model."""

    def rows(asked: Asked) -> list[Example]:
        written = answers(asked.sampler, asked.params, asked.subject.world, asked.requests, SAMPLED.samples)
        z = {language: asked.prompts(DOMINANT if after == "dominant" else language) for language in LANGUAGES}
        scored = [
            TokenPair(prompt, first, second)
            for language in LANGUAGES
            for prompt, samples in zip(z[language], written[language], strict=True)
            for first, second in zip(samples[::2], samples[1::2], strict=True)
        ]
        reward_N2 = implicit_rewards(asked.params, asked.subject.base, scored, len(asked.requests))
        reward_LNK = reward_N2.reshape(len(LANGUAGES), len(asked.requests), SAMPLED.samples)
        found = []
        for language, reward_NK in zip(LANGUAGES, reward_LNK, strict=True):
            samples = written[language]
            pairs = best_and_worst(asked.prompts(language), samples, calibrated(reward_NK, samples))
            found += [Example(f"{i}.{language}", language, None, pair) for i, pair in pairs.items()]
        return found

    return rows


def self_translated(asked: Asked) -> list[Example]:
    """Chosen: the dominant refusal in the model's translation, whose noise is `SELF_TRANSLATION`. Rejected: its greedy answer."""
    world, seed, found = asked.subject.world, asked.subject.seed, []
    written = answers(asked.greedy, asked.params, world, asked.requests)
    for j, language in enumerate(TARGETS):
        chosen = [
            world.mistranslated(language, pair, SELF_TRANSLATION, np.random.default_rng((seed, 6, i, j))).chosen
            for i, pair in enumerate(asked.pairs(language))
        ]
        found.append(asked.parallel(language, preferred(chosen, asked.prompts(language), written[language])))
    return _by_request(found)


def best_aligned(asked: Asked) -> list[Example]:
    """The sample that aligns best with the dominant refusal before the one that aligns worst."""
    world, found = asked.subject.world, []
    written = answers(asked.sampler, asked.params, world, asked.requests, SAMPLED.samples)
    references = [pair.chosen for pair in asked.pairs(DOMINANT)]
    for language in TARGETS:
        samples = written[language]
        pairs = best_and_worst(asked.prompts(language), samples, alignments(world, language, samples, references))
        found.append(asked.parallel(language, pairs))
    return _by_request(found)


def _by_request(found: Sequence[list[Example]]) -> list[Example]:
    """The rows of a request next to each other, as `Method.rows` expects them."""
    return sorted((row for rows in found for row in rows), key=lambda row: int(row.id.partition(".")[0]))


def calibrated(reward_NK: np.ndarray, samples: Samples) -> np.ndarray:
    """reward - alpha * tokens, with the alpha of `pairing.length_penalty`, float64 [N, K]: the score of Implicit Cross-Lingual
    Rewarding. `reward_NK`: nats."""
    length_NK = np.asarray([[len(sample) for sample in of_request] for of_request in samples], np.float64)
    return reward_NK - length_penalty(reward_NK, length_NK) * length_NK


def alignments(world: World, language: str, samples: Samples, references: Sequence[np.ndarray]) -> np.ndarray:
    """MAPO's score of every sample, given the dominant answer to the same request, 1/nats, float64 [N, K]."""
    scores = [
        [mapo.score([mapo.cross_entropy(translation_logps(world, language, sample, reference))]) for sample in of_request]
        for of_request, reference in zip(samples, references, strict=True)
    ]
    return np.asarray(scores)


def translation_logps(world: World, language: str, answer: np.ndarray, reference: np.ndarray) -> list[float]:
    """log p of each word of a dominant reference given an answer, nats, by the world's dictionary in IBM's model 1

        p(e_j | y) = mean_i t(e_j | y_i),   t(e | y) = (1 - MISTAKEN) [e translates y] + MISTAKEN / (number of words)

    P. F. Brown et al., "The Mathematics of Statistical Machine Translation", Computational Linguistics 19(2), 1993, without its
    empty word. An answer without words may be translated by any."""
    meaning_of = {tuple(ids.tolist()): meaning for meaning, ids in world.tokens[language].items()}
    said, length = answer[answer != END].tolist(), TOKENS_A_WORD[language]
    meanings = [meaning_of.get(tuple(said[i : i + length])) for i in range(0, len(said), length)]
    found = np.asarray([-1 if meaning is None else int(world.tokens[DOMINANT][meaning][0]) for meaning in meanings or [None]])
    hit_JI = reference[reference != END][:, None] == found[None]
    p_J = np.mean((1 - MISTAKEN) * hit_JI + MISTAKEN / len(meaning_of), axis=1)
    return np.log(p_J).tolist()


def best_and_worst(prompts: Sequence[np.ndarray], samples: Samples, score_NK: np.ndarray) -> dict[int, TokenPair]:
    """Request -> its best sample before its worst. A request has no pair where the two are the same text, as they are where all
    samples have the same score."""
    pairs = {}
    for i, (prompt, score_K) in enumerate(zip(prompts, score_NK, strict=True)):
        best, worst = pair_of(score_K)
        assert best is not None, "without a bound there is a best sample"
        if not np.array_equal(samples[i][best], samples[i][worst]):
            pairs[i] = TokenPair(prompt, samples[i][best], samples[i][worst])
    return pairs


def preferred(chosen: Sequence[np.ndarray], prompts: Sequence[np.ndarray], own: Samples) -> dict[int, TokenPair]:
    """Request -> a given answer before the model's own first one, as in Language Imbalance Driven Rewarding. A request has no
    pair where the two are the same."""
    asked = enumerate(zip(prompts, chosen, own, strict=True))
    return {i: TokenPair(prompt, given, of[0]) for i, (prompt, given, of) in asked if not np.array_equal(given, of[0])}


def facts(world: World, rows: Sequence[Example], requests: Sequence[Request]) -> dict[str, float]:
    """How many rows there are ("rows"), the share whose two answers are a refusal and a compliance, by their first words
    ("told"), and the share of these that prefer the right one ("right"). The number of a row's request opens its id."""
    told, correct = [], []
    for row in rows:
        no, yes = (world.say(row.language, (word, 0)).tolist() for word in ("no", "yes"))
        opens = [answer[: len(no)].tolist() for answer in (row.target.chosen, row.target.rejected)]
        unsafe = requests[int(row.id.partition(".")[0])].unsafe
        told.append(opens in ([no, yes], [yes, no]))
        correct.append(opens == ([no, yes] if unsafe else [yes, no]))
    return {"rows": len(rows), "told": float(np.mean(told)), "right": sum(correct) / max(sum(told), 1)}
