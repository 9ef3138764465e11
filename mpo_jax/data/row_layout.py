"""Which sequences does a model read of a batch, and which packed row does each go to?"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.errors import InputError
from mpo_jax.types import ANSWERS, KL, PAIR_KINDS, Reads, Want

# The released code pads a row's chosen and rejected sequence to a common multiple of 8, and its pooling averages over that.
AUTHORS_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class Span:
    """A sequence to be packed: prompt and answer of `slot`, in `length` positions, padding of its own included. Of its answer's
    tokens `scored` are scored (all or none)."""

    slot: int
    pair: TokenPair
    answer: int  # 0 = chosen, 1 = rejected
    length: int
    scored: int
    pooled: bool

    @property
    def tokens(self) -> tuple:
        """(prompt, answer), int32 ids."""
        return self.pair.prompt, (self.pair.rejected if self.answer else self.pair.chosen)


class Room(NamedTuple):
    """Length of packed rows, and the capacity of their list of scored positions."""

    tokens: int
    answers: int


def read_by(policy: Reads, reference: Reads) -> dict[str, Reads]:
    """Field of `Batch` -> what is packed there for methods that read this of the two models."""
    return {
        "policy": policy.of_rows,
        "reference": reference.of_rows,
        "mismatch": Reads(mismatch=policy.mismatch),
        "divergence": policy.divergence,
    }


def spans(rows: Sequence[Example | None], reads: Reads, padded_length: int | None = None) -> list[Span]:
    """The sequences that `reads` asks for, in the order of their slots (see `types.Packed`). What is pooled with "mean_padded"
    takes its padding too: to 8 * ceil(longer of chosen and rejected / 8) positions, or to `padded_length` of them."""
    found = []
    for kind, name in enumerate(PAIR_KINDS):
        want = reads.want(name)
        for answer in range(len(ANSWERS)) if want else ():
            for i, row in enumerate(rows):
                if row is None:
                    continue
                pair: TokenPair | None = getattr(row, name)
                if pair is None:
                    raise InputError(
                        f"The loss reads the {name} side of the rows, and row {row.id} has none: give rows with a '{name}', or a "
                        "loss that does not read it."
                    )
                lengths = [len(pair.prompt) + len(tokens) for tokens in (pair.chosen, pair.rejected)]
                length, pooled = lengths[answer], Want.HIDDEN in want
                if pooled and reads.pooling == "mean_padded":
                    length = padded_length or round_up(max(lengths), AUTHORS_MULTIPLE)
                    assert length >= max(lengths), f"padded_length {padded_length} for a sequence of {max(lengths)}"
                scored = len((pair.chosen, pair.rejected)[answer]) if want & (Want.LOGP | KL) else 0
                found.append(Span((len(ANSWERS) * kind + answer) * len(rows) + i, pair, answer, length, scored, pooled))
    return found


def balanced(sequences: Sequence[Span], rows: int) -> list[list[Span]]:
    """The sequences of each of `rows` packed rows: those with scored positions first, since these should be level too, the
    longest first, each into the row that holds the fewest positions so far."""
    packed: list[list[Span]] = [[] for _ in range(rows)]
    held = [0] * rows
    for span in sorted(sequences, key=lambda span: (span.scored == 0, -span.length, span.slot)):
        emptiest = held.index(min(held))
        packed[emptiest].append(span)
        held[emptiest] += span.length
    return packed


def needed(packed: Sequence[Sequence[Span]]) -> Room:
    """The room that these packed rows take."""
    return Room(max(sum(s.length for s in row) for row in packed), max(sum(s.scored for s in row) for row in packed))


@dataclasses.dataclass(frozen=True)
class Plan:
    """The static shapes of what one model reads: S packed rows, and the room in them under each of a run's shapes, rising. The
    last holds any batch."""

    rows: int
    rooms: tuple[Room, ...]


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What is static about a run's batches, by the fields of `Batch`; shape k of a batch is room k of each. None = not read."""

    policy: Plan
    reference: Plan | None = None
    mismatch: Plan | None = None
    divergence: Plan | None = None

    def first_with(self, rooms: dict[str, Room]) -> int:
        """The first shape with room for this, by the names of the fields."""
        plans = [(getattr(self, name), room) for name, room in rooms.items()]
        for k in range(len(self.policy.rooms)):
            if all(have >= need for plan, room in plans for have, need in zip(plan.rooms[k], room, strict=True)):
                return k
        raise AssertionError(f"{rooms} in {self}: are these the data's own shapes?")


def split_rows(rows: Sequence[Example | None], microbatches: int) -> list[Sequence[Example | None]]:
    """The rows of each microbatch, in order."""
    assert len(rows) % microbatches == 0, f"{len(rows)} rows in {microbatches} microbatches"
    count = len(rows) // microbatches
    return [rows[start : start + count] for start in range(0, len(rows), count)]


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
