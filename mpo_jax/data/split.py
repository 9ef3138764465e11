"""Which rows are trained on, and which are held out? Also: fewer of them, and a small sample that is even over languages."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mpo_jax.data.row_table import RowTable
from mpo_jax.data.rows import Row
from mpo_jax.errors import InputError


def split(rows: Sequence[Row], eval_fraction: float, seed: int) -> tuple[RowTable, RowTable]:
    """(training rows, held-out rows), each in file order. All rows of one dominant-language prompt (the target's prompt where
    there is none) go to the same part, so no question is trained on in one language and evaluated in another.

    `eval_fraction` is a share of the prompts, rounded to the nearest number but at least one; 0 holds out nothing.
    Errors: a fraction outside [0, 1), or one that leaves no row to train on.
    """
    if not 0 <= eval_fraction < 1:
        raise InputError(f"eval_fraction={eval_fraction} is not a fraction: write a number from 0 up to, but not including, 1.")
    table = RowTable.of(rows)
    prompts, count_of = _by_occurrence(table.prompts)
    count = max(1, round(eval_fraction * count_of)) if eval_fraction else 0
    if count >= count_of:
        raise InputError(f"eval_fraction={eval_fraction} of {count_of} distinct prompts leaves none to train on: lower it.")
    order = np.random.default_rng(seed).permutation(count_of)
    held_out = np.isin(prompts, order[:count])
    return table.take(~held_out), table.take(held_out)


def first_prompts(rows: Sequence[Row], count: int, seed: int) -> RowTable:
    """The rows of the first `count` prompts of each target language, in file order. `seed` draws the order of the prompts, the
    same for all languages, so the first few are among the first many. Errors: a language with fewer prompts."""
    table = RowTable.of(rows)
    prompts, count_of = _by_occurrence(table.prompts)
    place = np.empty(count_of, np.int64)
    place[np.random.default_rng((seed, 1)).permutation(count_of)] = np.arange(count_of)
    kept = np.zeros(len(table), bool)
    languages, first = np.unique(table.languages, return_index=True)
    for code in languages[np.argsort(first)].tolist():
        spoken = table.languages == code
        its = np.unique(prompts[spoken])
        if len(its) < count:
            raise InputError(
                f"data.per_language={count}, but '{table.columns.languages[code]}' has {len(its)} prompts to train on: lower it."
            )
        kept |= spoken & np.isin(prompts, its[np.argsort(place[its])][:count])
    return table.take(kept)


def sample(rows: Sequence[Row], count: int) -> RowTable:
    """`count` of the rows in file order, or all where there are fewer: equally many of each target language where it has enough,
    and at least one; from the same prompts where these are in all languages. It is always the same sample."""
    table = RowTable.of(rows)
    prompts, count_of = _by_occurrence(table.prompts)
    codes, languages = table.languages, table.columns.languages
    available = Counter({languages[code]: int(n) for code, n in zip(*np.unique(codes, return_counts=True), strict=True)})
    left = _evenly(max(count, len(available)), available)
    both = prompts * np.int64(len(languages)) + codes  # a number for prompt and language
    spoken = np.bincount(np.unique(both) // len(languages), minlength=count_of)
    mixed = np.random.default_rng(0).permutation(count_of)  # a file may be sorted by subject
    chosen = []
    # a prompt's second row in a language waits for all prompts' first ones
    for i in np.lexsort((np.arange(len(table)), mixed[prompts], -spoken[prompts], _nth(both))).tolist():
        language = languages[codes[i]]
        if left[language]:
            left[language] -= 1
            chosen.append(i)
            if not left.total():
                break
    return table.take(np.sort(np.asarray(chosen, np.int64)))


def _by_occurrence(numbers: np.ndarray) -> tuple[np.ndarray, int]:
    """The numbers renumbered 0, 1, ... as they first occur, and how many different ones there are."""
    distinct, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    rank = np.empty(len(distinct), np.int64)
    rank[np.argsort(first)] = np.arange(len(distinct))
    return rank[which], len(distinct)


def _nth(numbers: np.ndarray) -> np.ndarray:
    """How often each number occurred before."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    begins = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    nth = np.empty(len(numbers), np.int64)
    nth[order] = np.arange(len(numbers)) - np.repeat(begins, np.diff(begins, append=len(numbers)))
    return nth


def _evenly(count: int, available: Counter[str]) -> Counter[str]:
    """How many of each: equally many where there are enough; what does not divide evenly goes to the first ones by name."""
    shares: Counter[str] = Counter()
    while shares.total() < min(count, available.total()):
        for name in sorted(available):
            if shares[name] < available[name] and shares.total() < count:
                shares[name] += 1
    return shares


def prompt_of(row: Row) -> str:
    """What the rows of one question share: the dominant prompt, or the target's where there is none, with white space
    normalised."""
    return " ".join((row.source or row.target).prompt.split())
