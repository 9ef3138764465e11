"""How do examples become a host batch of fixed shapes? Several sequences share a packed row."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.row_balance import balanced, needed
from mpo_jax.data.row_layout import Capacity, Shapes, Span, first_rows, read_by, round_up, spans, split_rows
from mpo_jax.types import Batch, Packed, Reads

# Rows of prompts alone: at least so many tokens, a multiple of what attention on a TPU takes at once.
PROMPT_TOKENS, PROMPT_MULTIPLE = 512, 128


def pack(
    rows: Sequence[Example | None],
    shapes: Shapes,
    policy: Reads,
    reference: Reads,
    *,
    languages: Sequence[str],
    pad_id: int,
    microbatches: int = 1,
    padded_length: int | None = None,
    group: int = 1,
) -> Batch:
    """B rows -> a host batch (numpy) whose every array has a leading axis of M = `microbatches`, with the sequences that the
    policy and the frozen reference read.

    The rows are split in order into M microbatches of B/M. None fills up a short batch: weight 0 and no sequences.
    `row_balance.balanced` assigns the sequences to packed rows, where they become segments 1, 2, ...; all microbatches use the
    first of `shapes` that holds every one of them. Free positions have segment 0, slot -1 and weight 0. `group`: see `Batch`.
    """
    parts, reads = split_rows(rows, microbatches), read_by(policy, reference)
    taken = {name: own for name in reads if (own := getattr(shapes, name)) is not None}
    laid = {name: [balanced(spans(part, reads[name], padded_length), own.rows) for part in parts] for name, own in taken.items()}
    k = shapes.first_with({name: _most(map(needed, micro)) for name, micro in laid.items()})

    def packed(name: str) -> Packed:
        made = [_arrays(micro, taken[name].rows, taken[name].capacities[k], pad_id, reads[name].pooling) for micro in laid[name]]
        return Packed(**{field: np.stack([arrays[field] for arrays in made]) for field in made[0]})  # pyright: ignore[reportArgumentType]

    def per_row(values: Sequence[float], dtype: Any) -> Any:
        return np.asarray(values, dtype).reshape(microbatches, -1)

    return Batch(
        policy=packed("policy"),
        reference=packed("reference") if "reference" in taken else None,
        mismatch=packed("mismatch") if "mismatch" in taken else None,
        divergence=packed("divergence") if "divergence" in taken else None,
        weight_B=per_row([row is not None for row in rows], np.float32),
        language_B=per_row([0 if row is None else languages.index(row.language) for row in rows], np.int32),
        prompt_B=per_row([i for part in parts for i in first_rows(part)], np.int32) if policy.prompts else None,
        group=group,
    )


def pack_prompts(
    prompts: Sequence[np.ndarray], *, rows: int, pad_id: int, pooling: str
) -> tuple[list[tuple[Packed, list[int]]], int]:
    """(host batches of `rows` packed rows with prompts and no answers; slots of each). Beside a batch stand the indices of its
    prompts, whose slots are 0, 1, ... in this order. All batches have the same shapes: rows of at least `PROMPT_TOKENS`, filled
    with the longest prompts first."""
    length = round_up(max(PROMPT_TOKENS, *map(len, prompts)), PROMPT_MULTIPLE)
    packed, room = list[list[int]](), list[int]()
    for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        row = next((row for row, free in enumerate(room) if free >= len(prompts[i])), len(packed))
        if row == len(packed):
            packed.append([])
            room.append(length)
        packed[row].append(i)
        room[row] -= len(prompts[i])
    count, none = -(-len(packed) // rows), np.zeros(0, np.int32)
    batches, slots = list[tuple[Packed, list[int]]](), 0
    for part in (packed[k::count] for k in range(count)):
        held = [i for row in part for i in row]
        slots = max(slots, len(held))
        numbers = iter(range(len(held)))
        laid = [
            [Span(next(numbers), TokenPair(prompts[i], none, none), 0, len(prompts[i]), 0, True) for i in row] for row in part
        ]
        laid += [[]] * (rows - len(part))
        batches.append((Packed(**_arrays(laid, rows, Capacity(length, 0), pad_id, pooling)), held))  # pyright: ignore[reportArgumentType]
    return batches, slots


def _most(needs: Iterable[Capacity]) -> Capacity:
    return Capacity(*map(max, zip(*needs, strict=True)))


def _arrays(packed: Sequence[Sequence[Span]], S: int, capacity: Capacity, pad_id: int, pooling: str) -> dict[str, np.ndarray]:
    """The arrays of one microbatch, by the names of `Packed`, without the microbatch axis."""
    T, A = capacity
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
    for i, row in enumerate(packed):
        _fill({name: array[i] for name, array in arrays.items()}, row, pooling)
    return arrays


def _fill(row: dict[str, np.ndarray], sequences: Sequence[Span], pooling: str) -> None:
    """Writes the sequences of one packed row, one after the other."""
    start, scored = 0, 0
    for segment, span in enumerate(sequences, start=1):
        prompt, answer = span.tokens
        begin, end, stop = start + len(prompt), start + len(prompt) + len(answer), start + span.length
        row["tokens_ST"][start:end] = np.concatenate([prompt, answer])
        row["position_ST"][start:stop] = np.arange(stop - start)
        # The authors' padding, from end to stop, attends to its sequence and is pooled, but no query attends to it.
        row["segment_ST"][start:stop] = segment
        row["kv_segment_ST"][start:end] = segment
        if span.scored:
            last = scored + span.scored
            row["answer_at_SA"][scored:last] = np.arange(begin - 1, end - 1)  # a token is predicted by the state before it
            row["answer_label_SA"][scored:last] = answer
            row["answer_slot_SA"][scored:last] = span.slot
            scored = last
        if span.pooled:
            pooled = {
                "mean": slice(start, end),
                "mean_padded": slice(start, stop),
                "last_prompt": slice(begin - 1, begin),
                "last": slice(end - 1, end),
            }[pooling if span.answer >= 0 else "last_prompt"]
            row["pool_slot_ST"][pooled] = span.slot
            row["pool_weight_ST"][pooled] = 1.0 / (pooled.stop - pooled.start)
        start = stop
