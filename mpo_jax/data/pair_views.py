"""Which pairs does a method read beside the rows as they are? All are made of the data's own texts.

* Pairs of one language each, for methods without a dominant side: `monolingual`.
* Mismatched pairs, a prompt with the answers to another one, for KTO's reference point: `mismatched`.
* The same prompt's pair in another language, for the ablation of MPO's target gap: `in_language`.
"""

from collections.abc import Sequence

import numpy as np

from mpo_jax.data.chat import Example
from mpo_jax.data.row_table import SOURCE, TARGET, RowTable, first_id, languages_of
from mpo_jax.data.rows import Row
from mpo_jax.data.token_table import Examples
from mpo_jax.errors import InputError

PAIRS = ("parallel", "source", "both")


def monolingual(rows: Sequence[Row], pairs: str) -> RowTable:
    """'parallel': the rows as they are. 'source': each distinct dominant pair as a row of its own, without a source side.
    'both': the target sides of all rows, then those dominant pairs; the authors' 600 rows have 100 of them, so 700 in all."""
    table = RowTable.of(rows)
    if pairs == "parallel":
        return table
    if (alone := first_id(table.ids, table.source_pairs < 0)) is not None:
        raise InputError(f"data.pairs='{pairs}' needs a dominant side, but row '{alone}' has no 'source': leave data.pairs out.")
    first = np.sort(np.unique(table.source_pairs, return_index=True)[1])
    dominant = table.take(first).seen_as(SOURCE)
    return table.seen_as(TARGET).followed_by(dominant) if pairs == "both" else dominant


def mismatched(examples: Sequence[Example], side: str, max_length: int) -> Examples:
    """The examples with their mismatched pairs: an example's prompt on `side` with the answers of the next example (the first
    follows the last) whose prompt differs, cut at the end so that prompt and answer have `max_length` tokens. Error: all examples
    have the same prompt."""
    table = Examples.of(examples)
    own = table.pairs.get(side, (np.full(len(table), -1),))[0]
    if (alone := first_id(table.ids, own < 0)) is not None:
        raise InputError(f"The loss reads the {side} side, and row '{alone}' has none: write --config.loss.side=target.")
    prompts = table.prompts(side).tolist()
    if len(set(prompts)) < 2:
        raise InputError(
            "KTO needs rows with at least two different prompts, since its reference point comes from answers to other prompts: "
            "add rows, or choose another loss."
        )
    others, other = [], 0
    for i, prompt in enumerate(prompts):
        other = i + 1 if other <= i else other
        while prompts[other % len(prompts)] == prompt:
            other += 1
        others.append(other % len(prompts))
    return table.with_pairs("mismatch", own, own[others], max_length)


def in_language(rows: Sequence[Row], examples: Sequence[Example], language: str) -> Examples:
    """The examples with their pairs in `language`: the target or source side of the first row with the same dominant prompt.
    Errors: no row in that language; a prompt without a row in it."""
    texts, table = RowTable.of(rows), Examples.of(examples)
    names = texts.columns.languages
    code = names.index(language) if language in names else len(names)
    of_prompt: dict[int, int] = {}
    prompts = texts.prompts.tolist()
    sides = ((texts.languages == code, table.pairs["target"][0]),)
    if "source" in table.pairs:
        sides += ((texts.source_languages == code, table.pairs["source"][0]),)
    for i in np.flatnonzero(np.any([spoken for spoken, _ in sides], axis=0)).tolist():
        for spoken, pairs in sides:
            if spoken[i]:
                of_prompt.setdefault(prompts[i], int(pairs[i]))
    if not of_prompt:
        known = ", ".join(languages_of(texts))
        raise InputError(f"loss.gap_target='{language}' is not a language of the data: write 'reference', or one of {known}.")
    found = np.asarray([of_prompt.get(prompt, -1) for prompt in prompts])
    if (lacking := first_id(texts.ids, found < 0)) is not None:
        raise InputError(
            f"loss.gap_target='{language}': no row with the dominant prompt of row '{lacking}' is in that language; give the "
            "rows their 'language' where it was detected wrongly, or take the row out."
        )
    return table.with_pairs("parallel", found, found)
