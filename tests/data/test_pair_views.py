import dataclasses

import numpy as np
import pytest

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.pair_views import in_language, mismatched, monolingual
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.data.rows import PairText, Row, read_rows
from mpo_jax.errors import InputError
from mpo_jax.types import Reads, Want


def example(i: int, prompt: int, length: int = 3) -> Example:
    """Its answers say which one it is."""
    pair = TokenPair(np.full(2, prompt, np.int32), np.full(length, 10 + i, np.int32), np.full(length, 20 + i, np.int32))
    return Example(str(i), "sw", pair, pair)


def parallel_rows(languages=("sw", "zh"), prompts=3) -> tuple[list[Row], list[Example]]:
    rows, examples = [], []
    for i in range(prompts * len(languages)):
        prompt, language = i // len(languages), languages[i % len(languages)]
        source = PairText("en", f"q{prompt}", "w", "l")
        rows.append(Row(str(i), source, PairText(language, f"{language} q{prompt}", f"w{i}", f"l{i}"), "given"))
        pair = example(i, 50 + i).target
        examples.append(Example(str(i), language, example(90 + prompt, prompt).source, pair))
    return rows, examples


def test_mismatched_takes_the_next_answers_to_another_prompt_around_the_end():
    views = mismatched([example(i, prompt) for i, prompt in enumerate([1, 1, 2, 3, 3, 1])], "target", 100)
    assert [view.mismatch.chosen[0] - 10 for view in views] == [2, 2, 3, 5, 5, 2]
    assert [view.mismatch.rejected[0] - 20 for view in views] == [2, 2, 3, 5, 5, 2]
    assert [view.mismatch.prompt[0] for view in views] == [1, 1, 2, 3, 3, 1]


def test_mismatched_keeps_to_the_longest_length_and_never_empties_an_answer():
    views = mismatched([example(0, 1, 9), example(1, 2, 3)], "source", 6)
    assert [len(view.mismatch.chosen) for view in views] == [3, 4]
    assert len(mismatched([example(0, 1), example(1, 2)], "target", 2)[0].mismatch.rejected) == 1


def test_mismatched_needs_two_prompts():
    with pytest.raises(InputError, match="at least two different prompts"):
        mismatched([example(0, 1), example(1, 1)], "target", 100)
    with pytest.raises(InputError, match="row '0' has none"):
        mismatched([dataclasses.replace(example(0, 1), source=None)], "source", 100)


def test_in_language_is_the_pair_of_the_same_dominant_prompt():
    rows, examples = parallel_rows()
    views = in_language(rows, examples, "zh")
    assert [view.parallel.chosen[0] - 10 for view in views] == [1, 1, 3, 3, 5, 5]
    assert [view.id for view in views] == [row.id for row in rows]
    assert [view.parallel.chosen[0] - 10 for view in in_language(rows, examples, "en")] == [90, 90, 91, 91, 92, 92]


def test_a_language_that_is_not_there_is_a_sentence():
    rows, examples = parallel_rows()
    with pytest.raises(InputError, match=r"loss\.gap_target='ar' is not a language of the data: .* sw, zh"):
        in_language(rows, examples, "ar")
    with pytest.raises(InputError, match=r"the dominant prompt of row '0' is in that language"):
        in_language(rows[:1] + rows[3:], examples[:1] + examples[3:], "zh")


def test_monolingual_pairs_are_the_rows_and_each_dominant_pair_once():
    rows, _ = parallel_rows()
    assert monolingual(rows, "parallel") == rows
    both, source = monolingual(rows, "both"), monolingual(rows, "source")
    assert len(source) == 3
    assert {row.target.language for row in source} == {"en"}
    assert both == [*(dataclasses.replace(row, source=None) for row in rows), *source]
    assert len({row.id for row in both}) == len(both)
    with pytest.raises(InputError, match=r"data\.pairs='both' needs a dominant side"):
        monolingual(both, "both")


def test_the_authors_rows_make_700_pairs(shared):
    rows = read_rows(shared / "data" / "mpo" / "llama_mpo_data.json", allow_empty_prompt=True)
    assert (len(rows), len(monolingual(rows, "both"))) == (600, 700)


def test_a_batch_brings_the_views_of_its_own_rows_in_any_order():
    examples = in_language(*parallel_rows(prompts=4), "zh")
    examples = mismatched(examples, "target", 100)
    policy = Reads(target=Want.LOGP, mismatch="target")
    reference = Reads(parallel="zh")
    pipeline = Pipeline(examples, ["sw", "zh"], 4, 0, policy, reference, seed=3, microbatches=2)
    said = lambda packed: set(packed.answer_label_SA[packed.answer_slot_SA >= 0].tolist())  # noqa: E731
    for step in (0, 1):
        batch, rows = pipeline.batch_at(step), pipeline.rows_at(step)
        for packed, other in (
            (batch.policy, lambda row: row),
            (batch.mismatch, lambda row: (row + 1) % 8),
            (batch.reference, lambda row: row // 2 * 2 + 1),
        ):
            assert said(packed) == {first + other(row) for row in rows for first in (10, 20)}
    first = next(iter(pipeline.eval_batches()))
    assert said(first.mismatch) == {11, 12, 13, 14, 21, 22, 23, 24}
