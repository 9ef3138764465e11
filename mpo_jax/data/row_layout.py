"""Which sequences of a batch does a model read, and what static shapes hold them?"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.errors import InputError
from mpo_jax.types import ANSWERS, KL, PAIR_KINDS, Reads, Want, prompt_slot

# The authors' code pads a row's chosen and rejected sequence to a common multiple of 8, and its pooling averages over that.
AUTHORS_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class Span:
    """A sequence to be packed: prompt and answer of `slot`, in `length` positions, its own padding included. `scored` counts the
    answer tokens that are scored (all or none)."""

    slot: int
    pair: TokenPair
    answer: int  # 0 = chosen, 1 = rejected, -1 = none, the prompt alone
    length: int
    scored: int
    pooled: bool

    @property
    def tokens(self) -> tuple:
        """(prompt, answer), int32 ids."""
        answers = (self.pair.chosen, self.pair.rejected, self.pair.prompt[:0])
        return self.pair.prompt, answers[self.answer]


class Capacity(NamedTuple):
    """The length of packed rows, and the length of their list of scored positions."""

    tokens: int
    answers: int


def read_by(policy: Reads, reference: Reads) -> dict[str, Reads]:
    """Field of `Batch` -> what is packed there, for a method with these reads of the two models."""
    return {
        "policy": policy.of_rows,
        "reference": reference.of_rows,
        "mismatch": Reads(mismatch=policy.mismatch),
        "divergence": policy.divergence,
    }


def spans(rows: Sequence[Example | None], reads: Reads, padded_length: int | None = None) -> list[Span]:
    """The sequences that `reads` asks for, in the order of their slots (see `types.Packed`). Those pooled with "mean_padded"
    include their padding: to 8 * ceil(longer of chosen and rejected / 8) positions, or to `padded_length`."""
    found = []
    for kind, name in enumerate(PAIR_KINDS):
        want = reads.want_of_answers(name)
        for answer in range(len(ANSWERS)) if want else ():
            for i, row in enumerate(rows):
                if row is None:
                    continue
                pair = _pair(row, name)
                tokens = len((pair.chosen, pair.rejected)[answer])
                length = _padded(_length(pair), want, reads, padded_length) or len(pair.prompt) + tokens
                scored = tokens if want & (Want.LOGP | KL) else 0
                slot = (len(ANSWERS) * kind + answer) * len(rows) + i
                found.append(Span(slot, pair, answer, length, scored, Want.HIDDEN in want))
    return found + [span for side in reads.prompts for span in _prompts(rows, side)]


def _prompts(rows: Sequence[Example | None], side: str) -> list[Span]:
    """The prompts of one side without answers, each dominant one once."""
    first, once = first_rows(rows), side == "source"
    kept = [(i, row) for i, row in enumerate(rows) if row is not None and not (once and first[i] != i)]
    pairs = [(i, _pair(row, side)) for i, row in kept]
    return [Span(prompt_slot(side, len(rows)) + i, pair, -1, len(pair.prompt), 0, True) for i, pair in pairs]


def first_rows(rows: Sequence[Example | None]) -> list[int]:
    """For each row the first one with the same dominant prompt. A row that only fills up or has no dominant side is alone."""
    first: dict[bytes, int] = {}
    return [
        i if row is None or row.source is None else first.setdefault(row.source.prompt.tobytes(), i) for i, row in enumerate(rows)
    ]


def longest(rows: Iterable[Example], reads: Reads, padded_length: int | None = None) -> int:
    """The length of the longest of the `spans` of any of these rows."""
    rows, lengths = list(rows), [0]
    for name in PAIR_KINDS:
        if want := reads.want_of_answers(name):
            longer = max(_length(_pair(row, name)) for row in rows)
            lengths.append(_padded(longer, want, reads, padded_length) or longer)
    lengths += [len(_pair(row, side).prompt) for side in reads.prompts for row in rows]
    return max(lengths)


def _pair(row: Example, kind: str) -> TokenPair:
    pair: TokenPair | None = getattr(row, kind)
    if pair is None:
        raise InputError(
            f"The loss reads a {kind} pair of each row, but row '{row.id}' has none: give rows with a '{kind}', or choose a loss "
            "that does not read it."
        )
    return pair


def _length(pair: TokenPair) -> int:
    """Tokens of the longer of a pair's two sequences."""
    return len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))


def _padded(longer: int, want: Want, reads: Reads, padded_length: int | None) -> int:
    """The length of both sequences of a pair with the authors' padding, where the longer has this many tokens; 0 = no padding."""
    if Want.HIDDEN not in want or reads.pooling != "mean_padded":
        return 0
    length = padded_length or round_up(longer, AUTHORS_MULTIPLE)
    assert length >= longer, f"padded_length {padded_length} for a sequence of {longer}"
    return length


@dataclasses.dataclass(frozen=True)
class RowShapes:
    """The static shapes of what one model reads: S packed rows, and their capacity under each of a run's shapes, in ascending
    order. The last holds any batch."""

    rows: int
    capacities: tuple[Capacity, ...]


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The static shapes of a run's batches, by the fields of `Batch`; shape k is capacity k of each. None = not read. `filled`:
    the share of all positions that sequences take, over the batches for which the shapes were chosen."""

    policy: RowShapes
    reference: RowShapes | None = None
    mismatch: RowShapes | None = None
    divergence: RowShapes | None = None
    filled: float = 1.0

    def first_with(self, capacities: dict[str, Capacity]) -> int:
        """The number of the first shape that holds these capacities, given by field name."""
        needs = [(getattr(self, name).capacities, need) for name, need in capacities.items()]
        for k in range(len(self.policy.capacities)):
            if all(held >= n for have, need in needs for held, n in zip(have[k], need, strict=True)):
                return k
        raise AssertionError(f"{capacities} in {self}: are these the data's own shapes?")


def split_rows(rows: Sequence[Example | None], microbatches: int) -> list[Sequence[Example | None]]:
    """The rows of each microbatch, in order."""
    assert len(rows) % microbatches == 0, f"{len(rows)} rows in {microbatches} microbatches"
    count = len(rows) // microbatches
    return [rows[start : start + count] for start in range(0, len(rows), count)]


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
