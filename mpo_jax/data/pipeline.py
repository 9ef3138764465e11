"""Which rows come at step n? A pure function of (seed, step): a run that resumes at step n needs no other state, on any number of
hosts.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mpo_jax.data.batch_shapes import shapes_of
from mpo_jax.data.chat import Example
from mpo_jax.data.packing import pack
from mpo_jax.data.row_balance import dealt
from mpo_jax.data.row_layout import Shapes
from mpo_jax.data.token_table import Examples
from mpo_jax.errors import InputError
from mpo_jax.types import PAIR_KINDS, SIDES, Batch, Packed, Reads, Scores

# (B rows, None = filling; M microbatches) -> what the frozen reference says of them, (M, B / M, ...)
ReferenceScores = Callable[[Sequence[Example | None], int], Scores]

PLANNED = 1000  # in a run of up to this many steps the shapes are chosen for every batch, so none compiles late


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Owns the order of a data set. Every step takes `batch_size` rows, in a fresh permutation each epoch, or in the given order
    where `seed` is None; the last step of an epoch takes what is left, filled up with rows of weight 0. Where rows come in a
    permutation, those of a step are dealt to its microbatches so that these are about equally long. `policy` and `reference`:
    what each of the two models reads; `shards` and `microbatches` are those of `batch_shapes.shapes_of` and `packing.pack`. Where
    `scores` is given, batches carry the reference's scores instead of its input. With a `group` above 1 the rows of one
    dominant prompt come together, in so many places of a batch; no prompt has more rows."""

    examples: Sequence[Example]
    languages: Sequence[str]
    batch_size: int
    pad_id: int
    policy: Reads
    reference: Reads
    seed: int | None = 0
    epochs: int = 1
    microbatches: int = 1
    shards: int = 1
    scores: ReferenceScores | None = None
    group: int = 1

    def __post_init__(self):
        if self.batch_size < 1 or self.microbatches < 1 or self.batch_size % self.microbatches:
            raise InputError(
                f"batch_size={self.batch_size} cannot be split into microbatches={self.microbatches} equal parts: "
                f"choose a number of microbatches that divides {self.batch_size}."
            )
        if (micro := self.batch_size // self.microbatches) % self.group:
            raise InputError(
                f"The loss reads all rows of a prompt together, and a prompt has up to {self.group} rows, so the {micro} rows of "
                "a microbatch do not hold whole prompts: choose a batch_size that is a multiple of "
                f"{self.group * self.microbatches}."
            )
        if not len(self.examples):
            raise InputError("The data has no rows to train or evaluate on: give a file with rows, or hold out fewer of them.")

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._groups) * self.group // self.batch_size)

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @functools.cached_property
    def shapes(self) -> Shapes:
        """The shapes of every batch, chosen for the batches of the run, or for its first `PLANNED`."""
        batches = [self._filled(step) for step in range(min(self.steps, PLANNED))]
        examples = self._longest if self.steps_per_epoch > PLANNED else ()  # otherwise each of them is in these batches
        options = {"microbatches": self.microbatches, "shards": self.shards}
        return shapes_of(batches, self.policy, self.reference, examples=examples, **options)

    @functools.cached_property
    def efficiency(self) -> float:
        """The share of all positions, of both models, that hold a real token: over the first epoch, or its first `PLANNED`
        steps."""
        real, positions = 0, 0
        for step in range(min(self.steps_per_epoch, PLANNED)):
            batch = self.batch_at(step)
            for packed in (batch.policy, batch.reference):
                if isinstance(packed, Packed):
                    real += int((packed.kv_segment_ST > 0).sum())
                    positions += packed.kv_segment_ST.size
        return real / positions

    def rows_at(self, step: int) -> list[int]:
        """The indices into `examples` of the rows of step `step` >= 0, counted over all epochs."""
        return [i for i in self.places_at(step) if i >= 0]

    def places_at(self, step: int) -> list[int]:
        """As `rows_at`, with -1 where a group has fewer rows than others."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order, count = _order(self.seed, epoch, len(self._groups)), self.batch_size // self.group
        return self._groups[order[within * count :][:count]].ravel().tolist()

    @functools.cached_property
    def _groups(self) -> np.ndarray:
        """The indices into `examples` of the rows of each group, int64 (groups, `group`), -1 where there are fewer."""
        if self.group == 1:
            return np.arange(len(self.examples))[:, None]
        members: dict[int, list[int]] = {}
        prompts = self._table.prompts("source") if "source" in self._table.pairs else np.full(len(self.examples), -1)
        for i, prompt in enumerate(prompts.tolist()):
            members.setdefault(prompt if prompt >= 0 else -1 - i, []).append(i)  # without a dominant side it is alone
        if (most := max(map(len, members.values()))) > self.group:
            raise InputError(
                f"{most} rows have dominant prompts of the same tokens, but no prompt of the data has more than {self.group} "
                "rows: raise data.max_length, so that prompts are not cut until they are the same."
            )
        return np.asarray([rows + [-1] * (self.group - len(rows)) for rows in members.values()])

    def tokens_at(self, step: int) -> int:
        """Real tokens of step `step` on both sides, without padding; a prompt counts once with each of its two answers."""
        return int(self._tokens[self.rows_at(step)].sum())

    def tokens_before(self, step: int) -> int:
        """Real tokens of all steps before `step`."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, len(self._groups))
        before = self._groups[order[: within * self.batch_size // self.group]].ravel()
        return int(epoch * self._tokens.sum() + self._tokens[before[before >= 0]].sum())

    @functools.cached_property
    def _tokens(self) -> np.ndarray:
        """Of each example, int64."""
        return sum((self._table.lengths(side) @ (2, 1, 1) for side in SIDES), np.zeros(len(self.examples), np.int64))

    @functools.cached_property
    def _table(self) -> Examples:
        return Examples.of(self.examples)

    @property
    def _longest(self) -> list[Example]:
        """The examples whose pair of some kind is the longest, and those whose prompt is: no others' sequences are longer."""
        lengths = [self._table.lengths(kind) for kind in PAIR_KINDS]
        pairs = [int(np.argmax(of[:, 0] + of[:, 1:].max(axis=1))) for of in lengths]
        return [self.examples[i] for i in {*pairs, *(int(np.argmax(of[:, 0])) for of in lengths)}]

    @property
    def contents(self) -> str:
        """A digest of the languages and the tokens of all examples, in their order."""
        return self._table.contents

    def batch_at(self, step: int) -> Batch:
        """The host batch of step `step`, the same on every process."""
        rows = self._filled(step)
        batch = pack(
            rows,
            self.shapes,
            self.policy,
            self.reference,
            languages=self.languages,
            pad_id=self.pad_id,
            microbatches=self.microbatches,
            group=self.group,
        )
        return batch if self.scores is None else dataclasses.replace(batch, reference=self.scores(rows, self.microbatches))

    def eval_batches(self) -> Iterator[Batch]:
        """All examples once, in the given order."""
        return map(self.in_given_order.batch_at, range(self.steps_per_epoch))

    @functools.cached_property
    def in_given_order(self) -> "Pipeline":
        """The order of `eval_batches`: that of `examples`, but for groups, whose rows stay together."""
        return dataclasses.replace(self, seed=None, epochs=1)

    def _filled(self, step: int) -> list[Example | None]:
        places = self.places_at(step)
        places += [-1] * (self.batch_size - len(places))
        if self.microbatches > 1 and self.seed is not None:
            groups = np.asarray(places).reshape(-1, self.group)
            tokens_G = np.where(groups < 0, 0, self._tokens[groups]).sum(axis=1)
            parts = dealt(tokens_G.tolist(), self.microbatches)
            places = groups[np.concatenate(parts)].ravel().tolist()
        return [self.examples[i] if i >= 0 else None for i in places]


@functools.lru_cache(maxsize=2)
def _order(seed: int | None, epoch: int, count: int) -> np.ndarray:
    """The order of an epoch. Two are kept, one for training and one for the evaluation in between: with many rows, making one
    takes as long as a step."""
    order = np.arange(count)
    return order if seed is None else np.random.default_rng((seed, epoch)).permutation(order)
