"""How do answers that a model of the small world wrote itself become preference pairs?

As in three recipes (docs/data.md), whose own functions of scores decide. Texts are token ids here, and a length is a number of
tokens.
"""

from collections.abc import Sequence

import numpy as np

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.experiments.world import DOMINANT, END, TOKENS_A_WORD, Noise, World
from mpo_jax.recipes import mapo
from mpo_jax.recipes.pairing import length_penalty, pair_of

SELF_TRANSLATION = Noise(words=0.1)  # of the model's translations of its own refusals, in `lidr`
MISTAKEN = 0.1  # share of a word's translations that are any word at all, in `alignment`

Samples = Sequence[Sequence[np.ndarray]]  # request -> sample -> int32 ids


def calibrated(reward_NK: np.ndarray, samples: Samples) -> np.ndarray:
    """reward - alpha * tokens, with the alpha of `pairing.length_penalty`, float64 [N, K]: the score of Implicit Cross-Lingual
    Rewarding. `reward_NK`: nats."""
    length_NK = np.asarray([[len(sample) for sample in of_request] for of_request in samples], np.float64)
    return reward_NK - length_penalty(reward_NK, length_NK) * length_NK


def alignments(world: World, language: str, samples: Samples, references: Sequence[np.ndarray]) -> np.ndarray:
    """MAPO's score of every sample, given the dominant answer to the same request, 1/nats, float64 [N, K]."""
    scores = [
        [mapo.score([mapo.cross_entropy(translated(world, language, sample, reference))]) for sample in of_request]
        for of_request, reference in zip(samples, references, strict=True)
    ]
    return np.asarray(scores)


def translated(world: World, language: str, answer: np.ndarray, reference: np.ndarray) -> list[float]:
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
    """Request -> its best sample before its worst. A request has no pair where all samples have the same score or where the two
    are the same."""
    pairs = {}
    for i, (prompt, score_K) in enumerate(zip(prompts, score_NK, strict=True)):
        best, worst = pair_of(score_K)
        assert best is not None, "without a bound there is a best sample"
        if score_K[best] > score_K[worst] and not np.array_equal(samples[i][best], samples[i][worst]):
            pairs[i] = TokenPair(prompt, samples[i][best], samples[i][worst])
    return pairs


def preferred(chosen: Sequence[np.ndarray], prompts: Sequence[np.ndarray], own: Samples) -> dict[int, TokenPair]:
    """Request -> a given answer before the model's own first one, as in Language Imbalance Driven Rewarding. A request has no
    pair where the two are the same."""
    asked = enumerate(zip(prompts, chosen, own, strict=True))
    return {i: TokenPair(prompt, better, o[0]) for i, (prompt, better, o) in asked if not np.array_equal(better, o[0])}


def right(world: World, rows: Sequence[Example], unsafe: Sequence[bool]) -> tuple[int, int]:
    """(rows whose two answers are a refusal and a compliance, by their first words; those of them that prefer the right one).
    `unsafe`: of the request whose number opens a row's id."""
    told, correct = 0, 0
    for row in rows:
        no, yes = (world.say(row.language, (word, 0)).tolist() for word in ("no", "yes"))
        opens = [answer[: len(no)].tolist() for answer in (row.target.chosen, row.target.rejected)]
        told += opens in ([no, yes], [yes, no])
        correct += opens == ([no, yes] if unsafe[int(row.id.partition(".")[0])] else [yes, no])
    return told, correct
