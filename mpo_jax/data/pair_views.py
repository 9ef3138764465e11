"""Which pairs does a method read beside the rows as they are? All are made of the data's own texts.

* Pairs of one language each, for methods without a dominant side: `monolingual`.
* Mismatched pairs, a prompt with the answers to another one, for KTO's reference point: `mismatched`.
* The same prompt's pair in another language, for the ablation of MPO's target gap: `in_language`.
"""

import dataclasses
from collections.abc import Sequence

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.rows import Row
from mpo_jax.data.split import prompt_of
from mpo_jax.errors import InputError

PAIRS = ("parallel", "source", "both")


def monolingual(rows: Sequence[Row], pairs: str) -> list[Row]:
    """'parallel': the rows as they are. 'source': each distinct dominant pair as a row of its own, without a source side.
    'both': the target sides of all rows, then those dominant pairs; the authors' 600 rows have 100 of them, so 700 in all."""
    if pairs == "parallel":
        return list(rows)
    dominant: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        if row.source is None:
            raise InputError(
                f"data.pairs='{pairs}' needs a dominant side, but row '{row.id}' has no 'source': leave data.pairs out."
            )
        key = (row.source.prompt, row.source.chosen, row.source.rejected)
        dominant.setdefault(key, Row(f"{row.id}, source side", None, row.source, row.language_method))
    target = [dataclasses.replace(row, source=None) for row in rows] if pairs == "both" else []
    return [*target, *dominant.values()]


def mismatched(examples: Sequence[Example], side: str, max_length: int) -> list[Example]:
    """The examples with their mismatched pairs: an example's prompt on `side` with the answers of the next example (the first
    follows the last) whose prompt differs, cut at the end so that prompt and answer have `max_length` tokens. Error: all examples
    have the same prompt."""
    pairs = [_side(example, side) for example in examples]
    prompts = [pair.prompt.tobytes() for pair in pairs]
    if len(set(prompts)) < 2:
        raise InputError(
            "KTO needs rows with at least two different prompts, since its reference point comes from answers to other prompts: "
            "add rows, or choose another loss."
        )
    views, other = [], 0
    for i, (example, pair) in enumerate(zip(examples, pairs, strict=True)):
        other = i + 1 if other <= i else other
        while prompts[other % len(pairs)] == prompts[i]:
            other += 1
        answers, room = pairs[other % len(pairs)], max(1, max_length - len(pair.prompt))
        view = TokenPair(pair.prompt, answers.chosen[:room], answers.rejected[:room])
        views.append(dataclasses.replace(example, mismatch=view))
    return views


def in_language(rows: Sequence[Row], examples: Sequence[Example], language: str) -> list[Example]:
    """The examples with their pairs in `language`: the target or source side of the first row with the same dominant prompt.
    Errors: no row in that language; a prompt without a row in it."""
    of_prompt: dict[str, TokenPair] = {}
    for row, example in zip(rows, examples, strict=True):
        for text, pair in ((row.target, example.target), (row.source, example.source)):
            if text is not None and pair is not None and text.language == language:
                of_prompt.setdefault(prompt_of(row), pair)
    if not of_prompt:
        known = ", ".join(sorted({row.target.language for row in rows}))
        raise InputError(f"loss.gap_target='{language}' is not a language of the data: write 'reference', or one of {known}.")
    views = []
    for row, example in zip(rows, examples, strict=True):
        pair = of_prompt.get(prompt_of(row))
        if pair is None:
            raise InputError(
                f"loss.gap_target='{language}': no row with the dominant prompt of row '{row.id}' is in that language; give the "
                "rows their 'language' where it was detected wrongly, or take the row out."
            )
        views.append(dataclasses.replace(example, parallel=pair))
    return views


def _side(example: Example, side: str) -> TokenPair:
    pair = example.target if side == "target" else example.source
    if pair is None:
        raise InputError(f"The loss reads the {side} side, and row '{example.id}' has none: write --config.loss.side=target.")
    return pair
