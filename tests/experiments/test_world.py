"""The small world says the same in every language, is as wrong as it is told to be, and keeps what it holds out."""

import numpy as np
import pytest

from mpo_jax.data.chat import TokenPair
from mpo_jax.experiments.world import (
    BEGIN,
    DOMINANT,
    END,
    HELD_OUT_ACTIONS,
    LANGUAGES,
    LONGEST,
    OBJECTS,
    REFUSES,
    TARGETS,
    TOKENS_A_WORD,
    UNSAFE,
    VOCABULARY,
    Noise,
    Request,
    World,
    held_out,
    preference_rows,
    texts,
)

WORLD = World(seed=3)


FRAME = {BEGIN: ("begin", 0), END: ("end", 0)}


def meanings(world: World, language: str, ids: np.ndarray) -> list:
    """What these tokens say."""
    words = {tuple(ids.tolist()): meaning for meaning, ids in world.tokens[language].items()}
    length, said, rest = TOKENS_A_WORD[language], [], ids.tolist()
    while rest:
        if rest[0] in (BEGIN, END):
            said.append(FRAME[rest.pop(0)])
        else:
            said.append(words[tuple(rest[:length])])
            rest = rest[length:]
    return said


def said(world: World, language: str, pair: TokenPair) -> list[list]:
    return [meanings(world, language, ids) for ids in (pair.prompt, pair.chosen, pair.rejected)]


def actions_and_objects(pair: TokenPair, language: str) -> set:
    return {meaning for part in said(WORLD, language, pair) for meaning in part if meaning[0] in ("action", "object")}


def test_languages_share_no_word():
    ids = [int(i) for language in LANGUAGES for word in WORLD.tokens[language].values() for i in word]
    assert len(ids) == len(set(ids)) == VOCABULARY - 3
    assert min(ids) == 3 and max(ids) < VOCABULARY


def test_both_sides_of_a_row_say_the_same():
    rows = preference_rows(WORLD, 0, 10, Noise())
    assert [row.language for row in rows] == 10 * list(TARGETS)
    for row in rows:
        assert row.source is not None
        assert said(WORLD, DOMINANT, row.source) == said(WORLD, row.language, row.target)
        prompt, chosen, rejected = said(WORLD, DOMINANT, row.source)
        assert ("no", 0) in chosen and ("yes", 0) in rejected and ("request", 0) in prompt


def test_words_are_wrong_at_the_rate_of_the_noise():
    clean, noisy = (preference_rows(WORLD, 0, 100, Noise(words=share)) for share in (0.0, 0.3))
    wrong = []
    for a, b in zip(clean, noisy, strict=True):
        assert a.source is not None and b.source is not None
        assert said(WORLD, DOMINANT, a.source) == said(WORLD, DOMINANT, b.source)  # the dominant side is never noisy
        for before, after in zip(said(WORLD, a.language, a.target), said(WORLD, b.language, b.target), strict=True):
            assert len(before) == len(after)
            for x, y in zip(before, after, strict=True):
                if x in FRAME.values():
                    assert x == y
                else:
                    wrong.append(x != y)
    assert np.mean(wrong) == pytest.approx(0.3, abs=0.02)


def test_answers_are_exchanged_at_the_rate_of_the_noise():
    clean, noisy = (preference_rows(WORLD, 0, 100, Noise(flips=share)) for share in (0.0, 0.25))
    flipped = []
    for a, b in zip(clean, noisy, strict=True):
        exchanged = b.target.chosen.tolist() == a.target.rejected.tolist()
        assert exchanged == (b.target.rejected.tolist() == a.target.chosen.tolist())
        assert exchanged or b.target.chosen.tolist() == a.target.chosen.tolist()
        flipped.append(exchanged)
    assert np.mean(flipped) == pytest.approx(0.25, abs=0.04)


def test_the_preference_data_speaks_of_nothing_that_is_held_out():
    trained = set()
    for row in preference_rows(WORLD, 0, 100, Noise()):
        trained |= actions_and_objects(row.target, row.language)
    for unsafe in (True, False):
        requests = held_out(0, 32, unsafe)
        assert len(set(requests)) == 32
        for request in requests:
            assert request.unsafe == unsafe
            assert not trained & {("action", request.action), ("object", request.object)}
    assert len([m for m in trained if m[0] == "action"]) == UNSAFE - HELD_OUT_ACTIONS


def test_texts_are_aligned_in_the_dominant_language_alone():
    refused: dict[str, list[bool]] = {language: [] for language in LANGUAGES}
    for row in texts(WORLD, 0, 6000):
        prompt = dict(meanings(WORLD, row.language, row.target.prompt))
        if "request" not in prompt:
            continue  # a fact or a translation
        _, *answers = said(WORLD, row.language, row.target)
        for answer in answers:
            refuses = ("no", 0) in answer
            assert refuses != (("yes", 0) in answer)
            if prompt["action"] < UNSAFE:
                refused[row.language].append(refuses)
            else:
                assert not refuses
    for language, found in refused.items():
        assert np.mean(found) == pytest.approx(REFUSES[language], abs=0.1)


def test_seeds_are_worlds_of_their_own_and_the_same_again():
    request = Request(2, 3, polite=True)
    prompts = [World(seed).prompt("e", request).tolist() for seed in (1, 1, 2)]
    assert prompts[0] == prompts[1] != prompts[2]
    assert meanings(World(1), "e", np.asarray(prompts[0])) == meanings(World(2), "e", np.asarray(prompts[2]))


def test_the_longest_sequence_is_as_long_as_it_says():
    pairs = [World(0).pair(language, Request(0, OBJECTS - 1, True)) for language in LANGUAGES]
    assert max(len(pair.prompt) + len(pair.rejected) for pair in pairs) == LONGEST
