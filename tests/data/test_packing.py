import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toy_chat

from mpo_jax.data.batch_shapes import shapes_of
from mpo_jax.data.chat import Example
from mpo_jax.data.packing import pack
from mpo_jax.data.row_layout import Capacity, RowShapes, Shapes
from mpo_jax.errors import InputError
from mpo_jax.losses import Mpo
from mpo_jax.losses.base import numbers_of
from mpo_jax.models.parameters import Frozen
from mpo_jax.scoring.objective import Task
from mpo_jax.training.step import loss_and_grads
from mpo_jax.types import ANSWERS, PAIR_KINDS, POOLINGS, SIDES, Batch, Packed, Reads, Want

EXAMPLES = toy_chat.examples(8)
LANGUAGES = ("ko", "sw")
PAD = toy_chat.tokenizer().pad_token_id
BOTH = Want.LOGP | Want.HIDDEN
READS = Reads(source=BOTH, target=BOTH)
NOTHING = Reads()


def _pack(rows=EXAMPLES, shapes=None, policy=READS, reference=NOTHING, *, shards=1, **options):
    shapes = shapes or shapes_of([rows], policy, reference, shards=shards, **options)
    return pack(rows, shapes, policy, reference, languages=LANGUAGES, pad_id=PAD, **options)


def one_shape(rows: int, tokens: int, answers: int) -> Shapes:
    return Shapes(RowShapes(rows, (Capacity(tokens, answers),)), None)


def _sequences(rows, sides=SIDES):
    """(slot, pair, prompt, answer) of every sequence, the slots counted as `types.Packed` says."""
    slots = itertools.product(sides, ANSWERS, enumerate(rows))
    for side, answer, (i, row) in slots:
        if row is not None:
            pair = getattr(row, side)
            slot = (2 * PAIR_KINDS.index(side) + ANSWERS.index(answer)) * len(rows) + i
            yield slot, pair, pair.prompt, getattr(pair, answer)


def _found(packed, slot, m=0) -> tuple[int, int, int]:
    """Microbatch, packed row and segment of a sequence, by its first scored token."""
    row, entry = np.argwhere(packed.answer_slot_SA[m] == slot)[0]
    return m, row, packed.segment_ST[m, row, packed.answer_at_SA[m, row, entry]]


def test_every_scored_label_is_the_next_token_and_all_are_scored():
    packed = _pack().policy
    for slot, _, prompt, answer in _sequences(EXAMPLES):
        m, row, segment = _found(packed, slot)
        here = np.flatnonzero(packed.segment_ST[m, row] == segment)
        tokens = packed.tokens_ST[m, row]
        assert tokens[here].tolist() == [*prompt, *answer]
        assert packed.position_ST[m, row, here].tolist() == list(range(len(here))) == (here - here[0]).tolist()
        used = packed.answer_slot_SA[m, row] == slot
        at, label = packed.answer_at_SA[m, row][used], packed.answer_label_SA[m, row][used]
        assert label.tolist() == answer.tolist() == tokens[at + 1].tolist()
        assert at[0] == here[0] + len(prompt) - 1
    assert (packed.answer_slot_SA >= 0).sum() == sum(len(answer) for *_, answer in _sequences(EXAMPLES))
    np.testing.assert_array_equal(packed.segment_ST, packed.kv_segment_ST)
    assert (packed.tokens_ST[packed.segment_ST == 0] == PAD).all()
    assert packed.segment_ST.max() > 1, "nothing was packed"


def test_segments_of_a_row_count_up_from_one():
    packed = _pack().policy
    for row in packed.segment_ST[0]:
        assert list(dict.fromkeys(row[row > 0].tolist())) == list(range(1, row.max() + 1))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_weights_of_a_sequence_sum_to_one_at_the_right_places(pooling):
    packed = _pack(policy=dataclasses.replace(READS, pooling=pooling)).policy
    for slot, pair, prompt, answer in _sequences(EXAMPLES):
        m, row, segment = _found(packed, slot)
        end = len(prompt) + len(answer)
        padded = 8 * -(-(len(prompt) + max(len(pair.chosen), len(pair.rejected))) // 8)
        last_prompt = len(prompt) - 1
        expected = {"mean": range(end), "mean_padded": range(padded), "last": [end - 1], "last_prompt": [last_prompt]}[pooling]
        where = np.argwhere(packed.pool_slot_ST[m] == slot)
        assert (where[:, 0] == row).all()
        assert packed.position_ST[m, row, where[:, 1]].tolist() == list(expected)
        assert (packed.segment_ST[m, row, where[:, 1]] == segment).all()
        weights = packed.pool_weight_ST[m, row, where[:, 1]]
        np.testing.assert_array_equal(weights, np.float32(1 / len(weights)))
    assert not packed.pool_weight_ST[packed.pool_slot_ST < 0].any()


def test_the_authors_padding_looks_and_is_never_looked_at():
    packed = _pack(policy=Reads(target=BOTH, pooling="mean_padded"), padded_length=56).policy
    for slot, _, prompt, answer in _sequences(EXAMPLES, ("target",)):
        m, row, segment = _found(packed, slot)
        here = np.flatnonzero(packed.segment_ST[m, row] == segment)
        assert packed.position_ST[m, row, here].tolist() == list(range(56))
        end = len(prompt) + len(answer)
        assert packed.kv_segment_ST[m, row, here].tolist() == [segment] * end + [0] * (56 - end)


def test_only_what_is_pooled_takes_the_authors_padding():
    reads = Reads(source=Want.HIDDEN, target=Want.LOGP, pooling="mean_padded")
    packed = _pack(policy=reads).policy
    padding = (packed.segment_ST > 0) & (packed.kv_segment_ST == 0)
    assert padding.any()
    assert (packed.pool_slot_ST[padding] >= 0).all()


def test_what_is_not_read_is_not_packed():
    batch = _pack(policy=Reads(source=Want.HIDDEN, target=Want.LOGP), reference=Reads(source=Want.LOGP))
    slots = {side: {slot for slot, *_ in _sequences(EXAMPLES, (side,))} for side in SIDES}
    found = lambda slot_SA: set(slot_SA[slot_SA >= 0].tolist())  # noqa: E731
    assert found(batch.policy.pool_slot_ST) == slots["source"] == found(batch.reference.answer_slot_SA)
    assert found(batch.policy.answer_slot_SA) == slots["target"]
    assert not found(batch.reference.pool_slot_ST)
    assert _pack().reference is None


def test_compared_answers_are_packed_apart_and_only_there():
    batch = _pack(policy=Reads(source=Want.KL_OF_POLICY, target=Want.LOGP))
    slots = {side: {slot for slot, *_ in _sequences(EXAMPLES, (side,))} for side in SIDES}
    found = lambda slot_SA: set(slot_SA[slot_SA >= 0].tolist())  # noqa: E731
    assert found(batch.policy.answer_slot_SA) == slots["target"]
    assert found(batch.divergence.answer_slot_SA) == slots["source"]
    tokens = sum(len(prompt) + len(answer) for *_, prompt, answer in _sequences(EXAMPLES, ("target",)))
    assert (batch.policy.kv_segment_ST > 0).sum() == tokens


@pytest.mark.parametrize("microbatches", [2, 4])
def test_a_microbatch_is_packed_as_if_it_came_alone(microbatches):
    shapes = shapes_of([EXAMPLES], READS, NOTHING, microbatches=microbatches)
    parts = _pack(shapes=shapes, microbatches=microbatches)
    count = len(EXAMPLES) // microbatches
    for m in range(microbatches):
        alone = _pack(EXAMPLES[m * count :][:count], shapes)
        jax.tree.map(lambda part, one, m=m: np.testing.assert_array_equal(part[m], one[0]), parts, alone)


def test_filling_has_no_weight_and_no_sequences():
    batch = _pack([*EXAMPLES[:3], None], shards=3)
    assert batch.weight_B.tolist() == [[1, 1, 1, 0]]
    assert batch.policy.tokens_ST.shape[1] % 3 == 0
    assert set(np.unique(batch.policy.answer_slot_SA)) == {-1, *range(16)} - {3, 7, 11, 15}


def test_types_are_those_of_the_boundary():
    batch = _pack(microbatches=2)
    for field in dataclasses.fields(Packed):
        array = getattr(batch.policy, field.name)
        assert array.dtype == (np.float32 if field.name == "pool_weight_ST" else np.int32)
        assert array.shape[0] == 2
    assert (batch.weight_B.dtype, batch.language_B.dtype) == (np.float32, np.int32)
    assert batch.language_B.tolist() == [[1, 0] * 2] * 2


def test_packing_is_deterministic():
    jax.tree.map(np.testing.assert_array_equal, _pack(), _pack())


def test_a_side_that_rows_do_not_have_cannot_be_read():
    rows = toy_chat.examples(2, source=False)
    _pack(rows, policy=Reads(target=BOTH))
    with pytest.raises(InputError, match="reads a source pair of each row, but row '0' has none"):
        _pack(rows)


def test_a_sequence_beyond_the_capacity_is_a_bug_not_a_cut():
    for rows, tokens, answers in ((32, 64, 8), (32, 8, 64), (1, 64, 64)):
        with pytest.raises(AssertionError):
            _pack(shapes=one_shape(rows, tokens, answers))


LENGTH = 96


def one_a_row(rows: list[Example | None], pooling: str) -> Batch:
    """The padded layout, written without the library: every sequence at the start of the row of the number of its slot, both
    sides scored and pooled for both models."""
    S, T = 4 * len(rows), LENGTH
    out = {field.name: np.zeros((1, S, T), np.int32) for field in dataclasses.fields(Packed)}
    out["tokens_ST"][:] = PAD  # seen through the states of the padding
    out["answer_slot_SA"][:] = out["pool_slot_ST"][:] = -1
    out["pool_weight_ST"] = np.zeros((1, S, T), np.float32)
    for slot, pair, prompt, answer in _sequences(rows):
        p, n = len(prompt), len(prompt) + len(answer)
        padded = 8 * -(-(p + max(len(pair.chosen), len(pair.rejected))) // 8) if pooling == "mean_padded" else n
        put = {
            "tokens_ST": [*prompt, *answer],
            "position_ST": range(padded),
            "segment_ST": [1] * padded,
            "kv_segment_ST": [1] * n,
            "answer_at_SA": range(p - 1, n - 1),
            "answer_label_SA": answer,
            "answer_slot_SA": [slot] * len(answer),
        }
        for field, values in put.items():
            out[field][0, slot, : len(values)] = values
        places = {"mean": range(n), "mean_padded": range(padded), "last": [n - 1], "last_prompt": [p - 1]}[pooling]
        out["pool_slot_ST"][0, slot, places] = slot
        out["pool_weight_ST"][0, slot, places] = 1 / len(places)
    packed = Packed(**out)
    weight_B = np.asarray([[row is not None for row in rows]], np.float32)
    return Batch(packed, packed, weight_B, np.zeros((1, len(rows)), np.int32))


@pytest.fixture(scope="module")
def compute():
    """(batch) -> loss, metrics, gradients. Poolings differ in their batches only, so batches of one shape share a program."""
    model = tiny.model(vocab_size=272, layer_windows=(9, None))
    params = tiny.two_params(model)
    task, (policy, reference) = Task(model, Mpo(), LANGUAGES), params
    step = jax.jit(lambda *a: loss_and_grads(task, *a, numbers_of(Mpo())))
    return functools.partial(step, policy, Frozen({}, reference))


def assert_same(packed, padded):
    (loss, metrics, grads), (loss_1, metrics_1, grads_1) = packed, padded
    np.testing.assert_allclose(loss.value, loss_1.value, rtol=1e-5)
    for name in ("loss/gap", "loss/retain", "rewards/margins"):
        np.testing.assert_allclose(metrics[name].value, metrics_1[name].value, rtol=1e-5)
    for x, y in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_1), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * float(jnp.abs(y).max()))


ROWS = [*EXAMPLES[:7], None]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_packed_rows_compute_what_padded_rows_compute(compute, pooling):
    """Loss, metrics and every gradient, with a sliding window, filling, packed rows to spare, and in two microbatches."""
    loss = Mpo(retain_pooling=pooling)
    shapes = Shapes(*(RowShapes(rows, (Capacity(2 * LENGTH, 2 * LENGTH),)) for rows in (5, 3)))
    packed = _pack(ROWS, shapes, loss.policy_reads, loss.reference_reads, microbatches=2)
    assert min(packed.policy.segment_ST.max(), packed.reference.segment_ST.max()) > 2
    assert_same(compute(packed), compute(one_a_row(ROWS, pooling)))
