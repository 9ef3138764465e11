"""Which rows are trained on, and which are held out? Also: fewer of them, and a small sample that is even over languages."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mpo_jax.data.rows import Row
from mpo_jax.errors import InputError


def split(rows: Sequence[Row], eval_fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows), each in file order. All rows of one dominant-language prompt (the target's prompt where
    there is none) go to the same part, so no question is trained on in one language and evaluated in another.

    `eval_fraction` is a share of the prompts, rounded to the nearest number but at least one; 0 holds out nothing.
    Errors: a fraction outside [0, 1), or one that leaves no row to train on.
    """
    if not 0 <= eval_fraction < 1:
        raise InputError(f"eval_fraction={eval_fraction} is not a fraction: write a number from 0 up to, but not including, 1.")
    prompts = [prompt_of(row) for row in rows]
    distinct = list(dict.fromkeys(prompts))
    count = max(1, round(eval_fraction * len(distinct))) if eval_fraction else 0
    if count >= len(distinct):
        raise InputError(f"eval_fraction={eval_fraction} of {len(distinct)} distinct prompts leaves none to train on: lower it.")
    order = np.random.default_rng(seed).permutation(len(distinct))
    held_out = {distinct[i] for i in order[:count]}
    train = [row for row, prompt in zip(rows, prompts, strict=True) if prompt not in held_out]
    return train, [row for row, prompt in zip(rows, prompts, strict=True) if prompt in held_out]


def first_prompts(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """The rows of the first `count` prompts of each target language, in file order. `seed` draws the order of the prompts, the
    same for all languages, so the first few are among the first many. Errors: a language with fewer prompts."""
    prompts = [prompt_of(row) for row in rows]
    distinct = list(dict.fromkeys(prompts))
    place = {distinct[i]: at for at, i in enumerate(np.random.default_rng((seed, 1)).permutation(len(distinct)))}
    of_language: dict[str, set[str]] = {}
    for row, prompt in zip(rows, prompts, strict=True):
        of_language.setdefault(row.target.language, set()).add(prompt)
    kept = {}
    for language, its in of_language.items():
        if len(its) < count:
            raise InputError(f"data.per_language={count}, but '{language}' has {len(its)} prompts to train on: lower it.")
        kept[language] = set(sorted(its, key=place.__getitem__)[:count])
    return [row for row, prompt in zip(rows, prompts, strict=True) if prompt in kept[row.target.language]]


def sample(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` of the rows in file order, or all where there are fewer: equally many of each target language where it has enough,
    and at least one; from the same prompts where these are in all languages. It is always the same sample."""
    languages = Counter(row.target.language for row in rows)
    left = _evenly(max(count, len(languages)), languages)
    prompts = [prompt_of(row) for row in rows]
    spoken: dict[str, set[str]] = {}
    for row, prompt in zip(rows, prompts, strict=True):
        spoken.setdefault(prompt, set()).add(row.target.language)
    mixed = np.random.default_rng(0).permutation(len(spoken))  # a file may be sorted by subject
    rank = {prompt: (-len(spoken[prompt]), place) for prompt, place in zip(spoken, mixed, strict=True)}
    nth: Counter[tuple[str, str]] = Counter()  # a prompt's second row in a language waits for all prompts' first ones
    keys = []
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        keys.append((nth[prompt, row.target.language], *rank[prompt], i))
        nth[prompt, row.target.language] += 1
    chosen = []
    for *_, i in sorted(keys):
        if left[rows[i].target.language]:
            left[rows[i].target.language] -= 1
            chosen.append(i)
    return [rows[i] for i in sorted(chosen)]


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
