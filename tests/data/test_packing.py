import dataclasses

import numpy as np
import pytest
import toy_chat

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.packing import Shape, Shapes, pack, shapes_of
from mpo_jax.errors import InputError
from mpo_jax.types import POOLINGS, Packed

EXAMPLES = toy_chat.examples(8)
LANGUAGES = ("ko", "sw")
PAD = toy_chat.tokenizer().pad_token_id


def _pack(rows=EXAMPLES, shapes=None, **changes):
    return pack(rows, shapes or shapes_of(EXAMPLES, (16, 32)), **({"languages": LANGUAGES, "pad_id": PAD} | changes))


def _sequences(rows, side):
    for slot in range(2 * len(rows)):
        pair = getattr(rows[slot // 2], side)
        yield slot, pair.prompt, (pair.chosen, pair.rejected)[slot % 2]


@pytest.mark.parametrize("side", ["source", "target"])
def test_every_scored_label_is_the_next_token_and_all_are_scored(side):
    packed = getattr(_pack(), side)
    for slot, prompt, answer in _sequences(EXAMPLES, side):
        tokens, n = packed.tokens_ST[0, slot], len(prompt) + len(answer)
        used = packed.answer_slot_SA[0, slot] == slot
        at, label = packed.answer_at_SA[0, slot][used], packed.answer_label_SA[0, slot][used]
        assert tokens[:n].tolist() == [*prompt, *answer]
        assert (tokens[n:] == PAD).all()
        assert label.tolist() == answer.tolist() == tokens[at + 1].tolist()
        assert at[0] == len(prompt) - 1
        assert (packed.answer_slot_SA[0, slot][~used] == -1).all()
        assert packed.position_ST[0, slot, :n].tolist() == list(range(n))
        assert packed.segment_ST[0, slot].tolist() == packed.kv_segment_ST[0, slot].tolist() == [1] * n + [0] * (len(tokens) - n)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_weights_of_a_sequence_sum_to_one_at_the_right_places(pooling):
    packed = _pack(pooling=pooling).source
    for slot, prompt, answer in _sequences(EXAMPLES, "source"):
        end = len(prompt) + len(answer)
        pair = EXAMPLES[slot // 2].source
        padded = 8 * -(-(len(prompt) + max(len(pair.chosen), len(pair.rejected))) // 8)
        last_prompt = len(prompt) - 1
        expected = {"mean": range(end), "mean_padded": range(padded), "last": [end - 1], "last_prompt": [last_prompt]}[pooling]
        (where,) = np.nonzero(packed.pool_weight_ST[0, slot])
        assert where.tolist() == list(expected)
        np.testing.assert_allclose(packed.pool_weight_ST[0, slot].sum(), 1, rtol=1e-6)
        assert (packed.pool_slot_ST[0, slot][where] == slot).all()
        assert (np.delete(packed.pool_slot_ST[0, slot], where) == -1).all()


def test_the_authors_padding_looks_and_is_never_looked_at():
    packed = _pack(shapes=Shapes((Shape(64, 24),), (Shape(64, 24),)), pooling="mean_padded", padded_length=56).source
    for slot, prompt, answer in _sequences(EXAMPLES, "source"):
        end = len(prompt) + len(answer)
        assert packed.segment_ST[0, slot].tolist() == [1] * 56 + [0] * 8
        assert packed.kv_segment_ST[0, slot].tolist() == [1] * end + [0] * (64 - end)
        assert packed.position_ST[0, slot, :56].tolist() == list(range(56))
        assert np.count_nonzero(packed.pool_weight_ST[0, slot] == np.float32(1 / 56)) == 56


@pytest.mark.parametrize("microbatches", [2, 4])
def test_microbatches_are_one_batch_split_in_order(microbatches):
    whole, parts = _pack(), _pack(microbatches=microbatches)
    slots = 2 * len(EXAMPLES) // microbatches
    for field in (f.name for f in dataclasses.fields(Packed)):
        expected = getattr(whole.target, field)[0].reshape(microbatches, slots, -1)
        if "slot" in field:  # slots count within a microbatch
            first = slots * np.arange(microbatches)[:, None, None]
            expected = np.where(expected >= 0, expected - first, -1)
        np.testing.assert_array_equal(getattr(parts.target, field), expected)
    np.testing.assert_array_equal(parts.weight_B.ravel(), whole.weight_B[0])
    np.testing.assert_array_equal(parts.language_B.ravel(), [1, 0] * 4)


def test_filling_has_no_weight_and_no_sequences():
    batch = _pack([*EXAMPLES[:3], None], shards=3)
    assert batch.weight_B.tolist() == [[1, 1, 1, 0]]
    for packed in (batch.source, batch.target):
        assert packed.tokens_ST.shape[1] == 9  # 8 slots rounded up to 3 shards
        for field in ("segment_ST", "kv_segment_ST", "pool_weight_ST"):
            assert not getattr(packed, field)[0, 6:].any()
        assert (packed.answer_slot_SA[0, 6:] == -1).all()
        assert (packed.pool_slot_ST[0, 6:] == -1).all()


def test_types_are_those_of_the_boundary():
    batch = _pack(microbatches=2)
    for field in dataclasses.fields(Packed):
        array = getattr(batch.target, field.name)
        assert array.dtype == (np.float32 if field.name == "pool_weight_ST" else np.int32)
        assert array.shape[:2] == (2, 8)
    assert (batch.weight_B.dtype, batch.language_B.dtype) == (np.float32, np.int32)


def test_a_batch_takes_the_smallest_shape_that_holds_it():
    shapes = shapes_of(EXAMPLES, (24, 32))
    lengths = [len(e.target.prompt) + max(len(e.target.chosen), len(e.target.rejected)) for e in EXAMPLES]
    assert {_pack([e], shapes).target.tokens_ST.shape[-1] for e in EXAMPLES} == {s.tokens for s in shapes.target}
    for example, length in zip(EXAMPLES, lengths, strict=True):
        packed = _pack([example], shapes).target
        size = packed.tokens_ST.shape[-1]
        assert size == min(s.tokens for s in shapes.target if s.tokens >= length)
        assert packed.answer_at_SA.shape[-1] == next(s.answers for s in shapes.target if s.tokens == size)


def test_shapes_end_at_the_longest_sequence_and_skip_what_never_occurs():
    longest = max(len(e.target.prompt) + max(len(e.target.chosen), len(e.target.rejected)) for e in EXAMPLES)
    assert shapes_of(EXAMPLES, (8, 4096)).target[-1].tokens == 8 * -(-longest // 8)
    assert len(shapes_of(EXAMPLES, (8, 4096)).target) == 1  # nothing fits 8
    assert shapes_of(EXAMPLES, (8,)).target[-1].tokens == 8 * -(-longest // 8)
    assert [s.tokens for s in shapes_of(EXAMPLES, multiple_of=128).target] == [128]
    assert all(s.tokens % 8 == 0 and s.answers % 8 == 0 for s in shapes_of(EXAMPLES, (13, 27)).source)


def test_a_long_row_leaves_room_for_the_long_answer_of_a_short_one():
    def example(prompt, answer):
        tokens = np.ones(prompt, np.int32), np.ones(answer, np.int32), np.ones(2, np.int32)
        return Example("0", "ko", None, TokenPair(*tokens))

    long_answer, long_prompt = example(2, 20), example(60, 3)
    shapes = shapes_of([long_answer, long_prompt], (32, 64))
    assert shapes.target == (Shape(32, 24), Shape(64, 24))
    assert np.sum(_pack([long_answer, long_prompt], shapes).target.answer_slot_SA >= 0) == 20 + 2 + 3 + 2


@pytest.mark.parametrize("buckets", [(), (0, 8), (64, 32), (32, 32)])
def test_buckets_that_are_none(buckets):
    with pytest.raises(InputError, match="rising order"):
        shapes_of(EXAMPLES, buckets)
    with pytest.raises(InputError, match="multiple_of=12"):
        shapes_of(EXAMPLES, multiple_of=12)


def test_monolingual_rows_have_no_source_side():
    examples = toy_chat.examples(2, source=False)
    batch = _pack(examples, shapes_of(examples))
    assert batch.source is None
    assert batch.target is not None


def test_a_sequence_beyond_the_capacity_is_a_bug_not_a_cut():
    with pytest.raises(AssertionError):
        _pack(shapes=Shapes((), (Shape(64, 8),)))
    with pytest.raises(AssertionError):
        _pack(shapes=Shapes((), (Shape(8, 64),)))
