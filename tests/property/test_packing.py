"""Whatever lengths the sequences of a batch have, each is packed once, whole and apart, in the shapes that were chosen for it."""

import dataclasses
import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mpo_jax.data.batch_shapes import shapes_of
from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.packing import pack
from mpo_jax.types import ANSWERS, KL, PAIR_KINDS, POOLINGS, Packed, Reads, Want

PAD = 0
EMPTY = {"tokens_ST": PAD, "segment_ST": 0, "kv_segment_ST": 0, "position_ST": 0, "pool_slot_ST": -1, "pool_weight_ST": 0}
EMPTY |= {"answer_slot_SA": -1, "answer_label_SA": 0, "answer_at_SA": 0}
BOTH = Want.LOGP | Want.HIDDEN
WANTS = [Want.NOTHING, Want.LOGP, Want.HIDDEN, BOTH, Want.KL_OF_POLICY, Want.HIDDEN | Want.KL_OF_POLICY]
lengths = st.sampled_from(list(itertools.product([1, 2, 5, 7, 8, 9, 40], repeat=3)))  # of a prompt and its two answers


@st.composite
def examples(draw) -> list[Example]:
    """Every token is another number, so that each says whose it is."""
    count = itertools.count(PAD + 1)
    pair = lambda: TokenPair(*(np.fromiter(itertools.islice(count, n), np.int32) for n in draw(lengths)))  # noqa: E731
    made = range(draw(st.integers(1, 5)))
    return [Example(f"r{i}", "sw", *(pair() for _ in PAIR_KINDS)) for i in made]


@st.composite
def reads(draw, of_policy: bool) -> Reads:
    wants = st.sampled_from(WANTS)
    flag = st.sampled_from(["", "target"]) if of_policy else st.just("")
    read = Reads(draw(wants), draw(wants), draw(flag), draw(st.sampled_from(["", "sw"])), draw(st.sampled_from(POOLINGS)))
    return read if read.of_rows.anything or not of_policy else dataclasses.replace(read, target=Want.LOGP)


def places(reads: Reads, pair: TokenPair, prompt: int, end: int) -> range:
    """The positions of a sequence that its pooled state is made of."""
    padded = 8 * -(-(len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))) // 8)
    where = {"mean": (0, end), "mean_padded": (0, padded), "last_prompt": (prompt - 1, prompt), "last": (end - 1, end)}
    return range(*where[reads.pooling])


def assert_packed(packed: Packed, rows: list[Example | None], reads: Reads, m: int) -> None:
    """The sequences of one microbatch, found by their tokens, are those that are read, and nothing else is there."""
    of = {field.name: getattr(packed, field.name)[m].copy() for field in dataclasses.fields(packed)}
    for kind, answer, (i, row) in itertools.product(PAIR_KINDS, ANSWERS, enumerate(rows)):
        want = reads.want(kind)
        if row is None or not want:
            continue
        slot, pair = (2 * PAIR_KINDS.index(kind) + ANSWERS.index(answer)) * len(rows) + i, getattr(row, kind)
        prompt, said = pair.prompt.tolist(), getattr(pair, answer).tolist()
        end = len(prompt) + len(said)
        scored = len(said) if want & (Want.LOGP | KL) else 0
        pooled = places(reads, pair, len(prompt), end) if Want.HIDDEN in want else range(0)
        # Both sequences of a pair have its prompt: the first token of the answer tells them apart.
        ((s, first),) = np.argwhere(of["tokens_ST"] == said[0])
        begin, length = first - len(prompt), max(end, pooled.stop)
        here, segment = np.s_[s, begin : begin + length], of["segment_ST"][s, begin]
        assert segment > 0
        assert of["tokens_ST"][here].tolist() == prompt + said + [PAD] * (length - end)
        assert of["position_ST"][here].tolist() == list(range(length))
        assert of["segment_ST"][here].tolist() == [segment] * length
        assert of["kv_segment_ST"][here].tolist() == [segment] * end + [0] * (length - end)
        assert np.argwhere(of["pool_slot_ST"] == slot).tolist() == [[s, begin + place] for place in pooled]
        assert set(of["pool_weight_ST"][of["pool_slot_ST"] == slot]) == {np.float32(1 / len(pooled)) for _ in pooled[:1]}
        entries = np.flatnonzero(of["answer_slot_SA"][s] == slot)
        assert of["answer_label_SA"][s, entries].tolist() == said[:scored]
        assert of["answer_at_SA"][s, entries].tolist() == list(range(first - 1, first - 1 + scored))
        for name, empty in EMPTY.items():
            of[name][here if name.endswith("ST") else (s, entries)] = empty
    for name, empty in EMPTY.items():
        assert (of[name] == empty).all(), name


@given(data=st.data(), examples=examples(), policy=reads(True), reference=reads(False))
def test_every_sequence_is_packed_once_whole_and_apart(data, examples, policy, reference):
    microbatches, shards = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    size = -(-len(examples) // microbatches) * microbatches
    filled = lambda rows: [*rows, *[None] * (size - len(rows))]  # noqa: E731
    shapes = shapes_of([filled(examples)], policy, reference, microbatches=microbatches, shards=shards)
    # Of the same rows another batch may come than the one that the shapes were chosen for.
    other = st.lists(st.sampled_from(examples), min_size=1, max_size=len(examples), unique_by=lambda row: row.id)
    rows = filled(data.draw(st.just(examples) | other))
    batch = pack(rows, shapes, policy, reference, languages=["sw"], pad_id=PAD, microbatches=microbatches)
    assert batch.weight_B.ravel().tolist() == [float(row is not None) for row in rows]
    parts = {
        "policy": policy.of_rows,
        "reference": reference.of_rows,
        "mismatch": Reads(mismatch=policy.mismatch),
        "divergence": policy.divergence,
    }
    for name, read in parts.items():
        packed = getattr(batch, name)
        assert (packed is None) == (not read.anything)
        if packed is not None:
            M, S, T = packed.tokens_ST.shape
            assert (M, S % shards, T % 8, packed.answer_at_SA.shape[2] % 8) == (microbatches, 0, 0, 0)
            for m in range(microbatches):
                assert_packed(packed, rows[m * size // microbatches : (m + 1) * size // microbatches], read, m)
