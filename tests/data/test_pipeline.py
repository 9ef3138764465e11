import dataclasses
import itertools

import jax
import numpy as np
import pytest
import toy_chat

from mpo_jax.data.chat import TokenPair
from mpo_jax.data.pipeline import Pipeline
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


def test_the_order_of_a_seed_is_what_it_was():
    assert [PIPELINE.rows_at(step) for step in (0, 1, 2, 177)] == [[9, 6, 0, 2], [1, 4, 7, 5], [3, 8], [3, 4, 7, 6]]


def test_a_step_costs_the_same_in_a_run_of_a_million_rows(monkeypatch):
    """An epoch's permutation is made once, and what came before it is not gone through."""
    made, default_rng = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: made.append(seed) or default_rng(seed))
    pipeline = Pipeline([EXAMPLES[0]] * 1_000_000, ("ko", "sw"), 8, 0, LOSS.policy_reads, Reads(), seed=14, epochs=9)
    step = 8 * pipeline.steps_per_epoch + 100_000
    before, tokens = pipeline.tokens_before(step), [pipeline.tokens_at(k) for k in range(step, step + 100)]
    assert [before] == [step * n for n in set(tokens)]
    assert made == [(14, 8)]


@pytest.mark.parametrize("seed", [3, None])
def test_tokens_are_those_of_the_batches(seed):
    """Of both sides, where both are read: each prompt is read with each of its two answers."""
    both = Reads(source=Want.LOGP, target=Want.LOGP)
    pipeline = dataclasses.replace(PIPELINE, policy=both, reference=Reads(), seed=seed)
    counts = [np.count_nonzero(pipeline.batch_at(step).policy.kv_segment_ST) for step in range(8)]
    assert [pipeline.tokens_at(step) for step in range(8)] == counts
    assert [pipeline.tokens_before(step) for step in range(9)] == [0, *np.cumsum(counts)]


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
    """A row that is longer than all that were looked at, among rows as short as them, among its equals, and beside one whose
    prompt is longer."""
    monkeypatch.setattr("mpo_jax.data.pipeline.PLANNED", 1)
    short = toy_chat.examples(1)[0]
    long, asks, answers = (dataclasses.replace(short, target=pair_of(*n)) for n in ((200, 150, 90), (200, 9, 9), (20, 3000, 90)))
    reads = dataclasses.replace(LOSS.policy_reads, target=Want.LOGP | Want.HIDDEN, pooling=pooling)
    for later in ([short, short, short, long], [long] * 4, [short, short, asks, answers]):
        pipeline = Pipeline([short] * 4 + later, ("ko", "sw"), 4, 0, reads, Reads(), seed=None, microbatches=2)
        for step in (0, 1):
            pipeline.batch_at(step)
        assert pipeline.shapes.policy.capacities[0] < pipeline.shapes.policy.capacities[-1]


def pair_of(*lengths: int) -> TokenPair:
    """Of a prompt, a chosen and a rejected answer."""
    return TokenPair(*(np.ones(n, np.int32) for n in lengths))


GROUPED = dataclasses.replace(PIPELINE, batch_size=4, group=2)


def test_rows_without_a_dominant_side_are_each_alone():
    examples = toy_chat.examples(6, source=False)
    pipeline = dataclasses.replace(GROUPED, examples=examples, policy=Reads(target=Want.LOGP), reference=Reads())
    assert [len(pipeline.rows_at(step)) for step in range(pipeline.steps_per_epoch)] == [2, 2, 2]
    assert (pipeline.batch_at(0).weight_B.reshape(-1, 2) == [1, 0]).all()


@pytest.mark.parametrize("lacking", [(), (3,), (0, 1, 5)])
def test_the_rows_of_a_dominant_prompt_come_together_in_an_order_of_their_own(lacking):
    """Two rows a prompt, but for those that are lacking: their places are filled with rows of weight 0."""
    examples = [example for i, example in enumerate(EXAMPLES) if i not in lacking]
    pipeline = dataclasses.replace(GROUPED, examples=examples, microbatches=2)
    prompts = [example.source.prompt.tobytes() for example in examples]
    orders = []
    for epoch in range(3):
        steps = range(epoch * pipeline.steps_per_epoch, (epoch + 1) * pipeline.steps_per_epoch)
        rows = [i for step in steps for i in pipeline.rows_at(step)]
        assert sorted(rows) == list(range(len(examples)))
        orders.append(rows)
        for step in steps:
            batch, rows = pipeline.batch_at(step), pipeline.rows_at(step)
            assert batch.weight_B.sum() == len(rows) and batch.weight_B.shape == (2, 2)
            assert all(prompts.count(prompts[i]) == sum(prompts[i] == prompts[j] for j in rows) for i in rows)
    assert orders[0] != orders[1]
    tokens = [pipeline.tokens_at(step) for step in range(pipeline.steps)]
    assert [pipeline.tokens_before(step) for step in (0, 1, 4, 7)] == [sum(tokens[:step]) for step in (0, 1, 4, 7)]


def test_a_group_stays_in_one_microbatch():
    batch = dataclasses.replace(GROUPED, policy=Reads(Want.PROMPT, Want.PROMPT, groups=True), microbatches=2).batch_at(0)
    assert batch.prompt_B.tolist() == [[0, 0], [0, 0]] and batch.group == 2


def test_microbatches_are_equally_long():
    """The rows of a step are the same with any number of them."""
    pipeline = dataclasses.replace(PIPELINE, batch_size=6, reference=Reads(), microbatches=3)
    split = 0
    for step in range(20):
        rows, batch = pipeline.rows_at(step), pipeline.batch_at(step)
        assert rows == dataclasses.replace(pipeline, microbatches=1).rows_at(step)
        tokens = [pipeline._tokens[i] for i in rows] + [0] * (6 - len(rows))
        found = (batch.policy.kv_segment_ST > 0).sum(axis=(1, 2))
        assert found.sum() == sum(tokens)
        assert batch.weight_B.sum() == len(rows)
        ways = itertools.permutations(range(6))
        assert found.max() <= 1.1 * min(max(sum(tokens[i] for i in way[k : k + 2]) for k in (0, 2, 4)) for way in ways)
        split += sum(tokens[0:2]) != found[0]
    assert split, "nothing was dealt otherwise than in order"


def test_rows_that_come_in_order_are_split_in_order():
    """What is read of them is written down in their order."""
    pipeline = dataclasses.replace(PIPELINE, seed=None, microbatches=2)
    assert pipeline._filled(0) == EXAMPLES[:4]


def test_batches_that_do_not_hold_whole_groups():
    with pytest.raises(InputError, match=r"a prompt has up to 3 rows, so the 4 rows .* a batch_size that is a multiple of 3\."):
        dataclasses.replace(GROUPED, group=3)
    with pytest.raises(InputError, match=r"multiple of 8\."):
        dataclasses.replace(GROUPED, microbatches=4)
    same = dataclasses.replace(EXAMPLES[2], source=EXAMPLES[0].source)
    with pytest.raises(InputError, match="3 rows have dominant prompts of the same tokens"):
        dataclasses.replace(GROUPED, examples=[*EXAMPLES[:2], same]).rows_at(0)


@pytest.mark.parametrize("changes", [{"microbatches": 3}, {"batch_size": 0}, {"microbatches": 0}])
def test_a_batch_that_cannot_be_split(changes):
    with pytest.raises(InputError, match="microbatches="):
        dataclasses.replace(PIPELINE, **changes)
    with pytest.raises(InputError, match="no rows"):
        dataclasses.replace(PIPELINE, examples=[])
