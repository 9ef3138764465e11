"""Which prompts are answered together? Those of similar length, in few static shapes, since each shape is compiled once."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from mpo_jax.generation.base import Request

SMALLEST = 32
READ = 1024  # tokens


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


def row_of(number: int, rows: int, copies: int) -> int:
    """The row of a batch's `number`-th request. Rows are split evenly over the copies of the weights, and requests are dealt out
    to these in turn, so that each copy reads prompts of the same lengths at the same time."""
    return number % copies * (rows // copies) + number // copies


def stacked(part: Sequence[Asked], rows: int, prompt_slots: int, copies: int) -> dict[str, np.ndarray]:
    """The arrays of a batch: `tokens_BT`, `length_B`, `limit_B`, int32. A row that only fills it up has a limit of 0."""
    arrays = {"tokens_BT": np.zeros((rows, prompt_slots), np.int32)}
    arrays |= {"length_B": np.ones(rows, np.int32), "limit_B": np.zeros(rows, np.int32)}
    for number, one in enumerate(part):
        row = row_of(number, rows, copies)
        arrays["tokens_BT"][row, : len(one.tokens)] = one.tokens
        arrays["length_B"][row], arrays["limit_B"][row] = len(one.tokens), one.limit
    return arrays


def read_together(rows: int, prompt_slots: int, copies: int) -> int:
    """How many rows of each copy a prefill reads at once: about `READ` tokens, which is enough for fast products, and what is
    computed of them then takes little memory."""
    return min(rows // copies, max(1, READ // prompt_slots))


def groups(arrays: dict[str, np.ndarray], copies: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first row of each copy, `tokens_GT`, `length_G`) of what each prefill of a batch reads, no longer than its longest
    prompt."""
    rows, prompt_slots = arrays["tokens_BT"].shape
    each, together = rows // copies, read_together(rows, prompt_slots, copies)
    tokens = arrays["tokens_BT"].reshape(copies, each, prompt_slots)
    lengths = arrays["length_B"].reshape(copies, each)
    for first in (min(start, each - together) for start in range(0, each, together)):  # the last one may read rows again
        here = slice(first, first + together)
        longest = min(prompt_slots, rounded(int(lengths[:, here].max())))
        yield first, tokens[:, here, :longest].reshape(-1, longest), lengths[:, here].reshape(-1)
