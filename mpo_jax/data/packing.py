"""From examples to a host batch of fixed shapes, several sequences a packed row."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.layout import Shape, Shapes, SideName, layout_of, side_of, split_rows
from mpo_jax.types import Batch, Packed


def pack(
    rows: Sequence[Example | None],
    shapes: Shapes,
    *,
    languages: Sequence[str],
    pad_id: int,
    pooling: str = "mean",
    microbatches: int = 1,
    padded_length: int | None = None,
) -> Batch:
    """B rows -> a host batch (numpy) whose every array has a leading axis of M = `microbatches`.

    The rows are split in order into M microbatches of B/M. None is the filling of a short batch: weight 0 and no sequences.
    Row r of a microbatch has slots 2r (chosen) and 2r+1 (rejected). Its sequences are segments 1, 2, ... of packed rows, by
    `layout.first_fit`; all microbatches take the smallest of `shapes.sizes` that holds each of them. Free positions have
    segment 0, slot -1 and weight 0.

    `pooling` fills the pooling weights of both sides (see `types.Packed`). "mean_padded" is the released code's: the mean over
    the sequence and its padding to 8 * ceil(longer of chosen and rejected / 8) positions, or to `padded_length` of them.
    """
    layout = layout_of(rows, shapes, microbatches=microbatches, pooling=pooling, padded_length=padded_length)

    def packed(side: SideName) -> Packed | None:
        if side not in layout.slots:
            return None
        made = []
        parts = zip(split_rows(rows, microbatches), layout.slots[side], layout.lengths[side], strict=True)
        for examples, slots, lengths in parts:
            pairs = [side_of(row, side) for row in examples]
            arrays = _empty(getattr(shapes, side), getattr(layout.size, side), pad_id)
            for i, row_slots in enumerate(slots):
                _fill({name: array[i] for name, array in arrays.items()}, row_slots, pairs, lengths, pooling)
            made.append(arrays)

        def stacked(field: str) -> Any:
            return np.stack([arrays[field] for arrays in made])

        return Packed(**{field: stacked(field) for field in made[0]})

    def per_row(values: Sequence[float], dtype: Any) -> Any:
        return np.asarray(values, dtype).reshape(microbatches, -1)

    return Batch(
        source=packed("source"),
        target=packed("target"),
        weight_B=per_row([row is not None for row in rows], np.float32),
        language_B=per_row([0 if row is None else languages.index(row.language) for row in rows], np.int32),
    )


def _empty(shape: Shape, S: int, pad_id: int) -> dict[str, Any]:
    """The arrays of one microbatch without any sequence, by the names of `Packed`, without the microbatch axis."""
    T, A = shape.tokens, shape.answers
    return {
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


def _fill(
    row: dict[str, np.ndarray], slots: Sequence[int], pairs: Sequence[TokenPair | None], lengths: dict[int, int], pooling: str
) -> None:
    """Writes the sequences of one packed row, one after the other."""
    start, scored = 0, 0
    for segment, slot in enumerate(slots, start=1):
        pair = pairs[slot // 2]
        assert pair is not None
        answer = pair.rejected if slot % 2 else pair.chosen
        begin, end, stop = start + len(pair.prompt), start + len(pair.prompt) + len(answer), start + lengths[slot]
        last = scored + len(answer)
        assert last <= len(row["answer_at_SA"]), f"{last} scored tokens in {len(row['answer_at_SA'])} places"
        row["tokens_ST"][start:end] = np.concatenate([pair.prompt, answer])
        row["position_ST"][start:stop] = np.arange(stop - start)
        # The authors' padding, from end to stop, looks at its sequence and is pooled, but no query looks at it.
        row["segment_ST"][start:stop] = segment
        row["kv_segment_ST"][start:end] = segment
        row["answer_at_SA"][scored:last] = np.arange(begin - 1, end - 1)  # a token is predicted by the state before it
        row["answer_label_SA"][scored:last] = answer
        row["answer_slot_SA"][scored:last] = slot
        pooled = {
            "mean": slice(start, end),
            "mean_padded": slice(start, stop),
            "last_prompt": slice(begin - 1, begin),
            "last": slice(end - 1, end),
        }[pooling]
        row["pool_slot_ST"][pooled] = slot
        row["pool_weight_ST"][pooled] = 1.0 / (pooled.stop - pooled.start)
        start, scored = stop, last
