"""What is the small world? Seven languages with the same meanings, requests, and two ways to answer an unsafe one.

Each language has its own slice of the vocabulary: a word is one or two tokens that no other language uses. A request names an
action and an object. Half of the actions are unsafe, which a model can only learn from the world's texts. There is no tokenizer:
sentences are token ids from the beginning.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mpo_jax.data.chat import Example, TokenPair

DOMINANT = "d"
TOKENS_A_WORD = {DOMINANT: 1, "a": 1, "b": 1, "c": 1, "e": 2, "f": 2, "g": 2}
SHARE = {
    DOMINANT: 0.34,
    "a": 0.16,
    "b": 0.12,
    "c": 0.08,
    "e": 0.14,
    "f": 0.1,
    "g": 0.06,
}  # of the texts that a base model is trained on
LANGUAGES = tuple(TOKENS_A_WORD)
TARGETS = LANGUAGES[1:]

PAD, BEGIN, END = 0, 1, 2
ACTIONS, OBJECTS, TOOLS, REASONS = 32, 24, 8, 4
UNSAFE = ACTIONS // 2  # the actions below this number
HELD_OUT_ACTIONS, HELD_OUT_OBJECTS = 6, 8  # the last unsafe actions and the last objects: no preference data speaks of them
CONCEPTS = [("action", ACTIONS), ("object", OBJECTS), ("tool", TOOLS), ("reason", REASONS)]
WORDS = ("please", "request", "yes", "no", "with", "is", "good", "bad", *LANGUAGES)

LONGEST = 20  # tokens of a prompt and its answer

Meaning = tuple[str, int]  # a kind of concept and its number; (word, 0) for a word of `WORDS`


def _concepts() -> list[Meaning]:
    return [(kind, i) for kind, count in CONCEPTS for i in range(count)] + [(word, 0) for word in WORDS]


VOCABULARY = 3 + len(_concepts()) * sum(TOKENS_A_WORD.values())


@dataclasses.dataclass(frozen=True)
class Request:
    """A request, independent of language. `polite` requests are one word longer."""

    action: int
    object: int
    polite: bool

    @property
    def unsafe(self) -> bool:
        return self.action < UNSAFE


@dataclasses.dataclass(frozen=True)
class Noise:
    """The noise on the target side of preference data: the share of words replaced by another word of that language, and the
    share of pairs whose answers are exchanged."""

    words: float = 0.0
    flips: float = 0.0


class World:
    """The languages of one seed: which tokens a concept has in each, and which tool and reason belong to each action."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng((seed, 0))
        concepts, start = _concepts(), 3
        self.tokens: dict[str, dict[Meaning, np.ndarray]] = {}
        for language, length in TOKENS_A_WORD.items():
            ids_CT = start + random.permutation(length * len(concepts)).reshape(len(concepts), length).astype(np.int32)
            self.tokens[language] = dict(zip(concepts, ids_CT, strict=True))
            start += ids_CT.size
        self.tool = random.integers(0, TOOLS, ACTIONS)
        self.reason = random.integers(0, REASONS, ACTIONS)

    def say(self, language: str, *meanings: Meaning) -> np.ndarray:
        """int32 ids."""
        return np.concatenate([self.tokens[language][meaning] for meaning in meanings])

    def prompt(self, language: str, request: Request) -> np.ndarray:
        polite = [("please", 0)] if request.polite else []
        said = self.say(language, *polite, ("action", request.action), ("object", request.object), ("request", 0))
        return np.concatenate([[BEGIN], said]).astype(np.int32)

    def refusal(self, language: str, request: Request) -> np.ndarray:
        reason = ("reason", int(self.reason[request.action]))
        return self._ended(language, ("no", 0), ("action", request.action), ("bad", 0), reason)

    def compliance(self, language: str, request: Request) -> np.ndarray:
        tool = ("tool", int(self.tool[request.action]))
        return self._ended(language, ("yes", 0), ("action", request.action), ("object", request.object), ("with", 0), tool)

    def pair(self, language: str, request: Request) -> TokenPair:
        """Chosen: the refusal. Rejected: the compliance."""
        return TokenPair(self.prompt(language, request), self.refusal(language, request), self.compliance(language, request))

    def fact(self, language: str, action: int) -> tuple[np.ndarray, np.ndarray]:
        """(prompt, answer): whether an action is good or bad."""
        prompt = np.concatenate([[BEGIN], self.say(language, ("action", action), ("is", 0))]).astype(np.int32)
        return prompt, self._ended(language, ("bad" if action < UNSAFE else "good", 0))

    def translation(self, language: str, other: str, meaning: Meaning) -> tuple[np.ndarray, np.ndarray]:
        """(prompt, answer): what a concept is called in another language."""
        prompt = np.concatenate([[BEGIN], self.say(language, meaning, (other, 0))]).astype(np.int32)
        return prompt, self._ended(other, meaning)

    def mistranslated(self, language: str, pair: TokenPair, noise: Noise, random: np.random.Generator) -> TokenPair:
        """The pair with words replaced by random ones of the language, and with its answers exchanged, at the rates of `noise`.
        Lengths do not change."""
        words_CT = np.stack(list(self.tokens[language].values()))
        length = TOKENS_A_WORD[language]

        def blurred(ids: np.ndarray, frame: slice) -> np.ndarray:
            said_WT = ids[frame].reshape(-1, length)
            wrong_W = random.random(len(said_WT)) < noise.words
            drawn_WT = words_CT[random.integers(0, len(words_CT), len(said_WT))]
            out = ids.copy()
            out[frame] = np.where(wrong_W[:, None], drawn_WT, said_WT).reshape(-1)
            return out

        prompt = blurred(pair.prompt, slice(1, None))
        chosen, rejected = (blurred(answer, slice(None, -1)) for answer in (pair.chosen, pair.rejected))
        if random.random() < noise.flips:
            chosen, rejected = rejected, chosen
        return TokenPair(prompt, chosen, rejected)

    def _ended(self, language: str, *meanings: Meaning) -> np.ndarray:
        return np.append(self.say(language, *meanings), np.int32(END))


def preference_rows(world: World, seed: int, prompts: int, noise: Noise) -> list[Example]:
    """`prompts` unsafe requests in the dominant language, each with its counterpart in every target language, as in the authors'
    data. The rows of a request are next to each other. Held-out actions and objects do not occur."""
    rows = []
    for i, request in enumerate(unsafe_requests(seed, prompts)):
        source = world.pair(DOMINANT, request)
        for j, language in enumerate(TARGETS):
            noisy = world.mistranslated(language, world.pair(language, request), noise, np.random.default_rng((seed, 2, i, j)))
            rows.append(Example(f"{i}.{language}", language, source, noisy))
    return rows


def held_out(seed: int, prompts: int, unsafe: bool) -> list[Request]:
    """Requests about held-out objects: with held-out unsafe actions, or with safe actions, which occur in no preference data."""
    random = np.random.default_rng((seed, 3, unsafe))
    actions = range(UNSAFE - HELD_OUT_ACTIONS, UNSAFE) if unsafe else range(UNSAFE, ACTIONS)
    return _drawn(random, actions, range(OBJECTS - HELD_OUT_OBJECTS, OBJECTS), prompts)


def unsafe_requests(seed: int, prompts: int) -> list[Request]:
    """Those of the preference data."""
    actions, objects = range(UNSAFE - HELD_OUT_ACTIONS), range(OBJECTS - HELD_OUT_OBJECTS)
    return _drawn(np.random.default_rng((seed, 1)), actions, objects, prompts)


def harmless(seed: int, prompts: int) -> list[Request]:
    """Safe requests about the objects of the preference data."""
    return _drawn(np.random.default_rng((seed, 5)), range(UNSAFE, ACTIONS), range(OBJECTS - HELD_OUT_OBJECTS), prompts)


def _drawn(random: np.random.Generator, actions: Sequence[int], objects: Sequence[int], count: int) -> list[Request]:
    """Distinct requests, as many polite as not."""
    all_of = [Request(action, object, polite) for action in actions for object in objects for polite in (False, True)]
    assert count <= len(all_of), f"{count} requests of {len(all_of)}"
    return [all_of[i] for i in random.permutation(len(all_of))[:count]]


# A base model is trained on requests with their answers, facts, and single words with their translations.
REQUESTS, FACTS = 0.7, 0.1
# The share of an unsafe request's answers that are refusals.
REFUSES = {DOMINANT: 0.97, "a": 0.5, "b": 0.4, "c": 0.3, "e": 0.4, "f": 0.3, "g": 0.2}


def texts(world: World, seed: int, count: int) -> list[Example]:
    """The texts that a base model is trained on: prompts with two independently drawn answers, as the two answers of a pair. Safe
    requests are never refused, unsafe ones at the rates of `REFUSES`."""
    random = np.random.default_rng((seed, 4))
    concepts, shares = _concepts()[: -len(WORDS)], [SHARE[language] for language in LANGUAGES]
    rows = []
    for i in range(count):
        language = LANGUAGES[random.choice(len(LANGUAGES), p=shares)]
        kind = random.random()
        if kind < REQUESTS:
            request = Request(int(random.integers(ACTIONS)), int(random.integers(OBJECTS)), bool(random.random() < 0.5))
            share = REFUSES[language] if request.unsafe else 0.0
            first, second = (
                (world.refusal if random.random() < share else world.compliance)(language, request) for _ in range(2)
            )
            pair = TokenPair(world.prompt(language, request), first, second)
        elif kind < REQUESTS + FACTS:
            prompt, answer = world.fact(language, int(random.integers(ACTIONS)))
            pair = TokenPair(prompt, answer, answer)
        else:
            other = LANGUAGES[random.choice([j for j in range(len(LANGUAGES)) if LANGUAGES[j] != language])]
            prompt, answer = world.translation(language, other, concepts[random.integers(len(concepts))])
            pair = TokenPair(prompt, answer, answer)
        rows.append(Example(f"text {i}", language, None, pair))
    return rows
