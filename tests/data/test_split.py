"""Rows are divided by their questions, and samples by languages."""

import dataclasses
from collections import Counter

import pytest
import toy_chat

from mpo_jax.data.rows import PairText, Row, read_rows
from mpo_jax.data.split import first_prompts, prompt_of, sample, split
from mpo_jax.errors import InputError


@pytest.mark.parametrize("source", [True, False])
def test_a_split_shares_no_prompt(source):
    rows = toy_chat.rows(20, source)
    train, held_out = split(rows, 0.3, seed=0)

    def prompts(part):
        return {(row.source or row.target).prompt for row in part}

    assert not prompts(train) & prompts(held_out)
    assert sorted([*train, *held_out], key=lambda row: int(row.id)) == rows
    assert len(held_out) == 6
    assert [row.id for row in train] == sorted((row.id for row in train), key=int)
    assert split(rows, 0.3, seed=0) == (train, held_out)
    assert split(rows, 0.3, seed=1) != (train, held_out)


@pytest.mark.parametrize("source", [True, False])
def test_prompts_that_differ_in_white_space_go_to_one_part(source):
    def respaced(row, space):
        side = "source" if source else "target"
        text = getattr(row, side)
        return dataclasses.replace(row, **{side: dataclasses.replace(text, prompt=space(text.prompt))})

    spaces = (lambda p: p + "\n", lambda p: "  " + p, lambda p: p.replace(" ", "  "), lambda p: p.replace(" ", "\u00a0\n"))
    rows = [respaced(row, space) for row in toy_chat.rows(20, source) for space in spaces]
    train, held_out = split(rows, 0.3, seed=0)

    def prompts(part):
        return {tuple((row.source or row.target).prompt.split()) for row in part}

    assert not prompts(train) & prompts(held_out)
    assert len(held_out) == 6 * len(spaces)


def test_shares_of_a_split():
    rows = toy_chat.rows(10)
    assert split(rows, 0.0, 0) == (rows, [])
    assert len(split(rows, 0.01, 0)[1]) == 2  # at least one prompt
    for fraction in (-0.1, 1.0, 0.99):
        with pytest.raises(InputError, match=f"eval_fraction={fraction}"):
            split(rows, fraction, 0)


def parallel(prompts: int, languages: str, start: int = 0) -> list[Row]:
    """Every prompt in every language, one letter each."""
    return [
        Row(f"{p}{language}", PairText("en", f"question {p}", "w", "l"), PairText(language, "q", "w", "l"), "given")
        for p in range(start, start + prompts)
        for language in languages
    ]


def drawn(rows: list[Row], count: int) -> tuple[Counter[str], Counter[str]]:
    """How many rows a sample has of each language, and of each prompt."""
    chosen = sample(rows, count)
    assert [rows.index(row) for row in chosen] == sorted({rows.index(row) for row in chosen}), "in file order, each once"
    return Counter(row.target.language for row in chosen), Counter(map(prompt_of, chosen))


@pytest.mark.parametrize("languages", [2, 3, 4, 5, 6, 7, 8, 12])
def test_a_sample_takes_every_language_evenly_and_shares_prompts(languages):
    """A fixed cycle of languages, as the authors' files have it: every n-th row would be of few of them."""
    of_language, of_prompt = drawn(parallel(100, "abcdefghijkl"[:languages]), 64)
    assert of_language.total() == 64
    assert len(of_language) == languages
    assert max(of_language.values()) - min(of_language.values()) <= 1
    whole, rest = divmod(64, languages)
    assert sorted(of_prompt.values()) == [*([rest] if rest else []), *[languages] * whole]


def test_a_sample_of_uneven_languages():
    rows = [*parallel(50, "a"), *parallel(20, "abc", start=50), *parallel(3, "d", start=70)]
    of_language, of_prompt = drawn(rows, 33)
    assert of_language == {"a": 10, "b": 10, "c": 10, "d": 3}
    assert sorted(of_prompt.values()) == [1] * 3 + [3] * 10, "what is in three languages goes first"
    assert drawn(rows, 10**6)[0] == {"a": 70, "b": 20, "c": 20, "d": 3}
    assert len(drawn(parallel(9, "abcdefgh"), 3)[0]) == 8, "no language is left out"


def test_a_sample_takes_a_prompts_second_row_last():
    rows = [*parallel(10, "ab"), *(dataclasses.replace(row, id=f"{row.id} again") for row in parallel(10, "ab"))]
    assert drawn(rows, 20)[1] == {f"question {p}": 2 for p in range(10)}
    assert drawn(rows, 24)[0] == {"a": 12, "b": 12}


def test_a_sample_is_spread_over_the_file():
    of_prompt = drawn(parallel(100, "ab"), 20)[1]
    numbers = [int(prompt.split()[1]) for prompt in of_prompt]
    assert min(numbers) < 30
    assert max(numbers) > 70


def test_a_sample_of_the_released_rows(shared):
    rows = read_rows(shared / "data/mpo/llama_mpo_data.json", allow_empty_prompt=True)
    of_language, of_prompt = drawn(rows, 64)
    assert of_language == {"ar": 11, "bn": 11, "ja": 11, "ko": 11, "sw": 10, "zh": 10}
    assert len(of_prompt) == 11


def test_the_first_prompts_are_the_same_in_all_languages_and_among_more_of_them():
    texts = [(f"question {i}", language) for i in range(10) for language in ("sw", "ko")]
    rows = [
        Row(f"{text}, {language}", PairText("en", text, "yes", "no"), PairText(language, text, "yes", "no"), "given")
        for text, language in texts
    ]
    few, more = (first_prompts(rows, count, seed=0) for count in (3, 5))
    assert len(few) == 6 and len(more) == 10
    assert {r.id for r in few} < {r.id for r in more}
    prompts = {language: {prompt_of(r) for r in few if r.target.language == language} for language in ("sw", "ko")}
    assert prompts["sw"] == prompts["ko"]
    assert first_prompts(rows, 3, seed=1) != few == first_prompts(rows, 3, seed=0)
    assert first_prompts(rows, 10, seed=0) == rows
    with pytest.raises(InputError, match=r"data\.per_language=11, but 'sw' has 10 prompts"):
        first_prompts(rows, 11, seed=0)
