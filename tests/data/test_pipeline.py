import dataclasses

import jax
import numpy as np
import pytest
import toy_chat

from mpo_jax.data.chat import TokenPair
from mpo_jax.data.pipeline import Pipeline, split
from mpo_jax.errors import InputError
from mpo_jax.losses import Mpo
from mpo_jax.types import Reads, Want

EXAMPLES = toy_chat.examples(10)
LOSS = Mpo()
PIPELINE = Pipeline(EXAMPLES, ("ko", "sw"), 4, 0, LOSS.policy_reads, LOSS.reference_reads, seed=3, epochs=60)


def test_each_epoch_is_a_permutation_of_its_own():
    assert PIPELINE.steps_per_epoch == 3
    epochs = [[i for step in range(3) for i in PIPELINE.rows_at(3 * epoch + step)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert dataclasses.replace(PIPELINE, seed=4).rows_at(0) != PIPELINE.rows_at(0)


def test_a_step_does_not_depend_on_what_was_read_before():
    in_order = [PIPELINE.batch_at(step) for step in range(7)]
    fresh = dataclasses.replace(PIPELINE).batch_at(5)
    jax.tree.map(np.testing.assert_array_equal, fresh, in_order[5])


def test_a_batch_holds_the_rows_of_its_step_and_the_last_one_is_filled():
    batch = PIPELINE.batch_at(5)
    rows = PIPELINE.rows_at(5)
    assert len(rows) == 2
    assert batch.weight_B.tolist() == [[1, 1, 0, 0]]
    for slot, row in enumerate(rows):
        prompt = EXAMPLES[row].target.prompt
        row, entry = np.argwhere(batch.policy.answer_slot_SA[0] == 2 * 4 + slot)[0]
        begin = batch.policy.answer_at_SA[0, row, entry] + 1
        assert batch.policy.tokens_ST[0, row, begin - len(prompt) : begin].tolist() == prompt.tolist()


def test_evaluation_sees_every_row_once_in_order():
    batches = list(PIPELINE.eval_batches())
    assert sum(batch.weight_B.sum() for batch in batches) == 10
    languages = np.concatenate([batch.language_B[batch.weight_B > 0] for batch in batches])
    assert languages.tolist() == [1, 0] * 5
    assert batches[-1].weight_B.tolist() == [[1, 1, 0, 0]]


def test_a_run_meets_no_shape_that_was_not_planned():
    """All batches of the run are looked at; in the given order every epoch is the same."""
    parts = PIPELINE.shapes.policy, PIPELINE.shapes.reference
    planned = [(ours.tokens, theirs.tokens) for ours, theirs in zip(*(part.capacities[:-1] for part in parts), strict=True)]
    for step in range(0, PIPELINE.steps, 7):
        batch = PIPELINE.batch_at(step)
        assert (batch.policy.tokens_ST.shape[2], batch.reference.tokens_ST.shape[2]) in planned
    in_order = dataclasses.replace(PIPELINE, seed=None)
    assert in_order.rows_at(0) == in_order.rows_at(3) == [0, 1, 2, 3]


@pytest.mark.parametrize("pooling", ["mean", "mean_padded"])
def test_the_largest_shape_holds_rows_that_come_after_the_planned_batches(monkeypatch, pooling):
    """A row that is longer than all that were looked at, among rows as short as them and among its equals."""
    monkeypatch.setattr("mpo_jax.data.pipeline.PLANNED", 1)
    short, long = toy_chat.examples(1)[0], dataclasses.replace(toy_chat.examples(1)[0], target=pair_of(200, 150, 90))
    reads = dataclasses.replace(LOSS.policy_reads, target=Want.LOGP | Want.HIDDEN, pooling=pooling)
    for lengthened in (1, 4):
        examples = [short] * 4 + [short] * (4 - lengthened) + [long] * lengthened
        pipeline = Pipeline(examples, ("ko", "sw"), 4, 0, reads, Reads(), seed=None, microbatches=2)
        for step in (0, 1):
            pipeline.batch_at(step)
        assert pipeline.shapes.policy.capacities[0] < pipeline.shapes.policy.capacities[-1]


def pair_of(*lengths: int) -> TokenPair:
    """Of a prompt, a chosen and a rejected answer."""
    return TokenPair(*(np.ones(n, np.int32) for n in lengths))


@pytest.mark.parametrize("changes", [{"microbatches": 3}, {"batch_size": 0}, {"microbatches": 0}])
def test_a_batch_that_cannot_be_split(changes):
    with pytest.raises(InputError, match="microbatches="):
        dataclasses.replace(PIPELINE, **changes)
    with pytest.raises(InputError, match="no rows"):
        dataclasses.replace(PIPELINE, examples=[])


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


def test_shares_of_a_split():
    rows = toy_chat.rows(10)
    assert split(rows, 0.0, 0) == (rows, [])
    assert len(split(rows, 0.01, 0)[1]) == 2  # at least one prompt
    for fraction in (-0.1, 1.0, 0.99):
        with pytest.raises(InputError, match=f"eval_fraction={fraction}"):
            split(rows, fraction, 0)
