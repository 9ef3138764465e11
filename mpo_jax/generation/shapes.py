"""Which prompts are answered together? Those of similar length, in few static shapes, since each shape is compiled once."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from mpo_jax.generation.base import Request

SMALLEST = 32


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request with the token ids of its conversation, int32 of rank 1, and the most tokens that its answer may have."""

    request: Request
    tokens: np.ndarray
    limit: int


def rounded(count: int) -> int:
    """`count` or a little more: 32, 40, 48, 56, 64, 80, ..., so that at most a fifth is empty and there are few shapes."""
    step = SMALLEST // 4
    while count > 8 * step:
        step *= 2
    return max(SMALLEST, -(-count // step) * step)


def batches(asked: Sequence[Asked], batch_size: int, shards: int) -> Iterator[tuple[list[Asked], int, int]]:
    """(requests, rows, slots for a prompt) of each batch, the longest prompts first: what needs most memory comes at once. Rows
    are a multiple of `shards`, and more than requests where those do not fill them."""
    by_length = sorted(asked, key=lambda one: -len(one.tokens))
    whole = -(-batch_size // shards) * shards
    for start in range(0, len(by_length), whole):
        part = by_length[start : start + whole]
        rows = whole if start else min(whole, -(-len(part) // shards) * shards)
        yield part, rows, rounded(len(part[0].tokens))


def stacked(part: Sequence[Asked], rows: int, prompt_slots: int) -> dict[str, np.ndarray]:
    """The arrays of a batch: `tokens_BT`, `length_B`, `limit_B`, int32. A row that only fills it up has a limit of 0."""
    arrays = {"tokens_BT": np.zeros((rows, prompt_slots), np.int32)}
    arrays |= {"length_B": np.ones(rows, np.int32), "limit_B": np.zeros(rows, np.int32)}
    for row, one in enumerate(part):
        arrays["tokens_BT"][row, : len(one.tokens)] = one.tokens
        arrays["length_B"][row], arrays["limit_B"][row] = len(one.tokens), one.limit
    return arrays
