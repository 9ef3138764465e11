"""From examples to a host batch of fixed shapes.

The compiler makes one program a shape, so a run has few: `shapes_of` lists them once for a data set, and every batch takes the
smallest that holds it. For now a packed row holds one sequence, padded; the type allows several.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.errors import InputError
from mpo_jax.types import Batch, Packed

SideName = Literal["source", "target"]

# The released code pads a row's chosen and rejected sequence to a common multiple of 8, and its pooling averages over that.
AUTHORS_MULTIPLE = 8

BUCKETS = (256, 512, 1024, 2048, 4096)


@dataclasses.dataclass(frozen=True)
class Shape:
    """Length of a packed row, and the capacity of its list of scored positions."""

    tokens: int
    answers: int


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The shapes that can occur on each side, shortest first; `source` is empty for data without a dominant side."""

    source: tuple[Shape, ...]
    target: tuple[Shape, ...]


def shapes_of(examples: Sequence[Example], buckets: Sequence[int] = BUCKETS, multiple_of: int = 8) -> Shapes:
    """The shapes of every batch that can be made of these examples.

    A row's longest sequence goes to the first of `buckets` (lengths in tokens) that holds it; buckets beyond the longest one
    of the data are replaced by its length. Lengths are rounded up to `multiple_of` (TPU attention kernels want 128).
    Errors: buckets that are not positive and rising; a `multiple_of` that is no multiple of 8.
    """
    if not buckets or min(buckets) < 1 or list(buckets) != sorted(set(buckets)):
        raise InputError(f"buckets={tuple(buckets)} must be positive lengths in rising order, such as {BUCKETS}.")
    if multiple_of < 1 or multiple_of % AUTHORS_MULTIPLE:
        raise InputError(f"multiple_of={multiple_of} must be a positive multiple of {AUTHORS_MULTIPLE}: write 8 or 128.")
    sources = [example.source for example in examples if example.source is not None]
    assert len(sources) in (0, len(examples)), "a source side in some rows only"
    targets = [example.target for example in examples]
    return Shapes(_shapes_of_side(sources, buckets, multiple_of), _shapes_of_side(targets, buckets, multiple_of))


def _shapes_of_side(pairs: Sequence[TokenPair], buckets: Sequence[int], multiple_of: int) -> tuple[Shape, ...]:
    if not pairs:
        return ()
    answers = [max(len(pair.chosen), len(pair.rejected)) for pair in pairs]
    sizes = [(len(pair.prompt) + answer, answer) for pair, answer in zip(pairs, answers, strict=True)]
    longest = _round_up(max(sizes)[0], multiple_of)
    shapes, below = [], 0
    for bucket in sorted({min(_round_up(bucket, multiple_of), longest) for bucket in buckets} | {longest}):
        if any(below < length <= bucket for length, _ in sizes):  # otherwise no batch ever needs it
            capacity = max(answer for length, answer in sizes if length <= bucket)
            shapes.append(Shape(bucket, _round_up(capacity, 8)))
            below = bucket
    return tuple(shapes)


def pack(
    rows: Sequence[Example | None],
    shapes: Shapes,
    *,
    languages: Sequence[str],
    pad_id: int,
    pooling: str = "mean",
    microbatches: int = 1,
    shards: int = 1,
    padded_length: int | None = None,
) -> Batch:
    """B rows -> a host batch (numpy) whose every array has a leading axis of M = `microbatches`.

    The rows are split in order into M microbatches of B/M. None is the filling of a short batch: weight 0 and no sequences.
    Row r of a microbatch has slots 2r (chosen) and 2r+1 (rejected); its packed row has the number of its slot. S = 2B/M is
    rounded up to a multiple of `shards`, the pieces that the batch axis of the mesh is cut into, with empty packed rows.

    `pooling` fills the pooling weights of both sides (see `types.Packed`). "mean_padded" is the released code's: the mean over
    the sequence and its padding to 8 * ceil(longer of chosen and rejected / 8) positions, or to `padded_length` of them.
    """
    assert len(rows) % microbatches == 0, f"{len(rows)} rows in {microbatches} microbatches"
    per_microbatch = len(rows) // microbatches
    S = _round_up(2 * per_microbatch, shards)

    def side(name: SideName, options: tuple[Shape, ...]) -> Packed | None:
        if not options:
            return None
        pairs_B = [None if row is None else row.source if name == "source" else row.target for row in rows]
        padded_B = [_padded_length(pair, pooling, padded_length) for pair in pairs_B]
        assert max(padded_B) <= options[-1].tokens, f"{max(padded_B)} positions in {options}: are these the data's own shapes?"
        shape = next(shape for shape in options if shape.tokens >= max(padded_B))
        parts = []
        for start in range(0, len(rows), per_microbatch):
            part = slice(start, start + per_microbatch)
            parts.append(_pack_side(pairs_B[part], padded_B[part], shape, S, pad_id, pooling))

        def stacked(field: str) -> Any:
            return np.stack([part[field] for part in parts])

        return Packed(**{field: stacked(field) for field in parts[0]})

    def per_row(values: Sequence[float], dtype: Any) -> Any:
        return np.asarray(values, dtype).reshape(microbatches, per_microbatch)

    return Batch(
        source=side("source", shapes.source),
        target=side("target", shapes.target),
        weight_B=per_row([row is not None for row in rows], np.float32),
        language_B=per_row([0 if row is None else languages.index(row.language) for row in rows], np.int32),
    )


def _padded_length(pair: TokenPair | None, pooling: str, override: int | None) -> int:
    """How many positions each sequence of a pair takes in its packed row: 0 without a pair."""
    if pair is None:
        return 0
    longest = len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
    if pooling != "mean_padded":
        return longest
    assert override is None or override >= longest, f"padded_length {override} for a sequence of {longest}"
    return override or _round_up(longest, AUTHORS_MULTIPLE)


def _pack_side(
    pairs_B: Sequence[TokenPair | None], padded_B: Sequence[int], shape: Shape, S: int, pad_id: int, pooling: str
) -> dict[str, Any]:
    """The arrays of one microbatch, by the names of `Packed`, without the microbatch axis."""
    T, A = shape.tokens, shape.answers
    arrays = {
        "tokens_ST": np.full((S, T), pad_id, np.int32),
        "position_ST": np.zeros((S, T), np.int32),
        "segment_ST": np.zeros((S, T), np.int32),
        "kv_segment_ST": np.zeros((S, T), np.int32),
        "answer_at_SA": np.zeros((S, A), np.int32),
        "answer_label_SA": np.zeros((S, A), np.int32),
        "answer_slot_SA": np.full((S, A), -1, np.int32),
        "pool_slot_ST": np.full((S, T), -1, np.int32),
        "pool_weight_ST": np.zeros((S, T), np.float32),
    }
    for row, (pair, padded) in enumerate(zip(pairs_B, padded_B, strict=True)):
        if pair is not None:
            for slot, answer in ((2 * row, pair.chosen), (2 * row + 1, pair.rejected)):
                _place({name: array[slot] for name, array in arrays.items()}, slot, pair.prompt, answer, padded, pooling)
    return arrays


def _place(row: dict[str, np.ndarray], slot: int, prompt: np.ndarray, answer: np.ndarray, padded: int, pooling: str) -> None:
    """Writes one sequence at the start of a packed row."""
    begin, end = len(prompt), len(prompt) + len(answer)
    assert len(answer) <= len(row["answer_at_SA"]), f"an answer of {len(answer)} tokens in {len(row['answer_at_SA'])} places"
    # The authors' padding looks at its sequence and is pooled, but no query looks at it.
    used = padded if pooling == "mean_padded" else end
    row["tokens_ST"][:end] = np.concatenate([prompt, answer])
    row["position_ST"][:used] = np.arange(used)
    row["segment_ST"][:used] = 1
    row["kv_segment_ST"][:end] = 1
    row["answer_at_SA"][: len(answer)] = np.arange(begin - 1, end - 1)  # a token is predicted by the state before it
    row["answer_label_SA"][: len(answer)] = answer
    row["answer_slot_SA"][: len(answer)] = slot
    pooled = {
        "mean": slice(0, end),
        "mean_padded": slice(0, used),
        "last_prompt": slice(begin - 1, begin),
        "last": slice(end - 1, end),
    }[pooling]
    row["pool_slot_ST"][pooled] = slot
    row["pool_weight_ST"][pooled] = 1.0 / (pooled.stop - pooled.start)


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
