"""Few shapes, little padding, and no batch without a place."""

import numpy as np
import pytest
import toy_chat

from mpo_jax.data.chat import Example, TokenPair, load_tokenizer, tokenize
from mpo_jax.data.layout import SIDES, Shape, Size, efficiency, first_fit, layout_of, slot_lengths
from mpo_jax.data.packing import pack
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.data.rows import read_rows
from mpo_jax.data.shapes import shapes_of
from mpo_jax.models.llama import FAMILY

PAIR_LENGTHS = (10, 4, 2)


def example(target=PAIR_LENGTHS, source=PAIR_LENGTHS) -> Example:
    """Of (prompt, chosen, rejected) lengths."""

    def pair(lengths):
        return None if lengths is None else TokenPair(*(np.ones(n, np.int32) for n in lengths))

    return Example("0", "ko", pair(source), pair(target))


def random_examples(random, count: int) -> list[Example]:
    """Mostly short, some long, one-token prompts and answers among them."""

    def lengths():
        return tuple(int(n) for n in np.minimum(1 + random.pareto(1.0, 3) * 4, 90))

    return [example(lengths(), lengths()) for _ in range(count)]


@pytest.mark.parametrize("pooling", ["mean", "mean_padded"])
@pytest.mark.parametrize(("microbatches", "shards"), [(1, 1), (2, 1), (1, 8), (4, 3)])
def test_no_batch_of_these_examples_is_without_a_place(microbatches, shards, pooling):
    """Packing asserts every capacity; the batches packed here are not those that the shapes were chosen for."""
    for seed in range(8):
        random = np.random.default_rng(seed)
        examples = random_examples(random, 24)
        shapes = shapes_of([examples[i : i + 8] for i in (0, 8, 16)], microbatches=microbatches, shards=shards, pooling=pooling)
        assert 1 <= len(shapes.sizes) <= 3
        assert list(shapes.sizes) == sorted(shapes.sizes)
        assert all(rows % shards == 0 for size in shapes.sizes for rows in size)
        for shape in (shapes.source, shapes.target):
            assert shape.tokens % 8 == shape.answers % 8 == 0
        for rows in (random.choice(np.asarray(examples), 8).tolist(), [examples[0]] * 8, [*examples[:3], *[None] * 5]):
            pack(rows, shapes, languages=("ko",), pad_id=0, pooling=pooling, microbatches=microbatches)
        for side in SIDES:
            longest = max(examples, key=lambda row: max(slot_lengths([row], side).values()))
            pack([longest] * 8, shapes, languages=("ko",), pad_id=0, pooling=pooling, microbatches=microbatches)


def test_rows_full_of_answers_have_a_place_for_each():
    rows = [example((9, 55, 55))] * 4
    packed = pack(rows, shapes_of([rows]), languages=("ko",), pad_id=0).target
    assert packed.tokens_ST.shape[2] == 64
    assert packed.answer_slot_SA.shape[2] == 56
    assert (packed.answer_slot_SA[0, :, :55] >= 0).all()


def test_first_fit_takes_the_longest_first_into_the_first_row_with_room():
    lengths = {0: 3, 1: 6, 2: 4, 3: 5, 4: 3, 5: 2}
    assert first_fit(lengths, 10) == [[1, 2], [3, 0, 5], [4]]
    assert first_fit(dict(reversed(lengths.items())), 10) == first_fit(lengths, 10)  # ties go by slot
    assert first_fit({}, 10) == []
    with pytest.raises(AssertionError, match="11 positions"):
        first_fit({0: 11}, 10)


def test_the_last_size_holds_the_longest_sequences_only():
    shapes = shapes_of([[example((1, 60, 60))] * 4, [example((1, 4, 4))] * 4])
    rows = [example((1, 60, 60))] * 4
    assert layout_of(rows, shapes).size == shapes.sizes[-1]


def test_padding_of_the_authors_takes_room():
    rows = [example((10, 9, 2)), None]
    assert slot_lengths(rows, "target") == {0: 19, 1: 12}
    assert slot_lengths(rows, "target", "mean_padded") == {0: 24, 1: 24}
    assert slot_lengths(rows, "target", "mean_padded", 30) == {0: 30, 1: 30}


def test_known_shapes():
    """Sixteen sequences of 50 tokens: of rows of one to three times that, two in 104 positions waste least."""
    rows = [example((20, 30, 30), None)] * 8
    shapes = shapes_of([rows] * 2)
    assert shapes.source is None
    assert shapes.target == Shape(104, 88)
    assert shapes.sizes == (Size(0, 8),)
    assert efficiency([rows], shapes) == {"target": 16 * 50 / (8 * 104)}


def test_sides_share_a_length_where_that_costs_little_and_not_where_it_costs_much():
    alike = shapes_of([[example((20, 30, 30), (20, 28, 28))] * 8])
    assert alike.source.tokens == alike.target.tokens
    unlike = shapes_of([[example((200, 300, 300), (2, 3, 3))] * 8], shards=8)
    assert unlike.source.tokens < unlike.target.tokens


def test_a_second_size_must_save_eight_batches():
    short, long = [example((2, 8, 8), None)] * 8, [example((2, 60, 60), None)] * 8
    few, many = shapes_of([short] * 4 + [long]), shapes_of([short] * 40 + [long])
    assert len(few.sizes) == 1
    assert len(many.sizes) == 2
    assert efficiency([short] * 40 + [long], many)["target"] > 0.8


def test_real_tokens_over_positions_is_the_efficiency():
    pipeline = Pipeline(toy_chat.examples(10), ("ko", "sw"), batch_size=4, pad_id=0, microbatches=2, pooling="mean_padded")
    batches = [pipeline.batch_at(step) for step in range(3)]
    for side, share in pipeline.efficiency.items():
        kv_segments = [getattr(batch, side).kv_segment_ST for batch in batches]
        np.testing.assert_allclose(share, sum(map(np.count_nonzero, kv_segments)) / sum(x.size for x in kv_segments))


def test_the_released_rows_waste_few_positions(shared):
    """8 rows a step on one shard: 84 % of the positions hold a token (51 % with a sequence a row), in two compiled shapes, and no
    other comes in the two epochs of the published runs. What is left is mostly that batches differ in size."""
    rows = read_rows(shared / "data/mpo/llama_mpo_data.json", allow_empty_prompt=True)
    tokenizer = load_tokenizer(shared / "data/tokenizers/llama-3.1-8b-instruct")
    examples = tokenize(rows, tokenizer, FAMILY.chat, max_length=1024)
    pipeline = Pipeline(examples, ("xx",), batch_size=8, pad_id=0)
    shapes = pipeline.shapes
    taken = [layout_of([examples[i] for i in pipeline.rows_at(step)], shapes).size for step in range(150)]
    assert set(taken) == set(shapes.sizes[:2])
    positions = sum(size.source * shapes.source.tokens + size.target * shapes.target.tokens for size in taken[:75])
    tokens = sum(sum(slot_lengths(examples, side).values()) for side in SIDES)
    assert tokens / positions > 0.83
    assert pipeline.efficiency["target"] > 0.85
