"""Which types do the packages share?

One legend of shape letters for the whole package. An array of rank two or more carries them as a suffix, in logical order:

    M microbatches    B rows of a batch    S packed rows    T tokens of a packed row    U keys, where these are not the T tokens
    A scored positions of a packed row     P scored positions of all packed rows    D model width    F feed-forward
    V vocabulary      N query heads        K key/value heads    H head width    R = H / 2 rotations    L layers

Lower-case letters are blocks of these: b of the vocabulary or of tokens.

"source" is the dominant-language side of a row, "target" the other side. Every row names its own two languages.
"""

import dataclasses
import enum
import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

DTYPES = ("float32", "bfloat16")
Params = Any  # a tree of nested dicts of arrays, as `models.decoder.Model.abstract` declares it
Array = jax.Array
Number = float | Array  # a number of a method's equation: f32 () where a program takes it as an argument
Numbers = dict[str, Any]  # by name; a tree where a method contains other methods

# How the final-norm states of a sequence become one vector: the mean over its real tokens, the mean over its padding too (as
# the authors' code does, in rows of 8 * ceil(longest of the pair / 8) positions), its last prompt token, its last token.
POOLINGS = ("mean", "mean_padded", "last_prompt", "last")


SIDES = ("source", "target")  # of a row: in its dominant language, in its target language
PAIR_KINDS = (*SIDES, "mismatch", "parallel")  # the pairs of a row: its two sides, and those that some methods read (see `Reads`)
ANSWERS = ("chosen", "rejected")


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """The literal text around one exchange. `before` holds the beginning-of-text token, where the model has one."""

    before: str
    between: str
    end: str
    strip: bool = False  # whether white space around both messages is removed
    special_tokens: tuple[str, ...] = ()  # those in the text, each of which must be one token of the tokenizer
    skip_newlines: bool = False  # whether an answer's first newlines are removed

    def prompt(self, message: str) -> str:
        return self.before + self.content(message) + self.between

    def response(self, message: str) -> str:
        return (self.content(message).lstrip("\n") if self.skip_newlines else self.content(message)) + self.end

    def content(self, message: str) -> str:
        return message.strip() if self.strip else message


class Want(enum.Flag):
    """What a method needs from one model on one side of a row."""

    NOTHING = 0
    LOGP = enum.auto()
    HIDDEN = enum.auto()
    KL_OF_POLICY = enum.auto()  # KL(policy || reference), asked of both models and given in the policy's scores
    KL_OF_REFERENCE = enum.auto()  # KL(reference || policy), likewise
    PROMPT = enum.auto()  # the state of the prompt's last token, from the prompt alone; of the source and target side only


KL = Want.KL_OF_POLICY | Want.KL_OF_REFERENCE


@dataclasses.dataclass(frozen=True)
class Reads:
    """What a method needs from one model; what it does not read is never packed or computed.

    `pooling`: one of `POOLINGS`. `layer`: the states of prompts are those of the residual stream after this many layers, without
    the final norm; 0 = after all layers and the final norm. `groups`: all rows of one dominant prompt come together, in one
    microbatch. `contrast`: rows are compared with all others of the batch, which must then be one microbatch."""

    source: Want = Want.NOTHING
    target: Want = Want.NOTHING
    mismatch: str = ""  # log-probabilities of this side's prompts with the answers to other prompts, without gradient
    parallel: str = ""  # log-probabilities of the pair in this language that has the same dominant prompt
    pooling: str = "mean"
    layer: int = 0
    groups: bool = False
    contrast: bool = False

    @classmethod
    def answers(cls, source: bool) -> "Reads":
        """The log-probabilities of the target side's answers and, with `source`, of the source side's: what gaps are made of."""
        return cls(source=Want.LOGP if source else Want.NOTHING, target=Want.LOGP)

    def __or__(self, other: "Reads") -> "Reads":
        """What is needed for both; pooling and layer are those of the one that reads such states."""
        return Reads(
            source=self.source | other.source,
            target=self.target | other.target,
            mismatch=self.mismatch or other.mismatch,
            parallel=self.parallel or other.parallel,
            pooling=other.pooling if Want.HIDDEN in other.source | other.target else self.pooling,
            layer=other.layer if other.prompts else self.layer,
            groups=self.groups or other.groups,
            contrast=self.contrast or other.contrast,
        )

    def want(self, kind: str) -> Want:
        """What is needed of this one of `PAIR_KINDS`."""
        asked = getattr(self, kind)
        return asked if isinstance(asked, Want) else Want.LOGP if asked else Want.NOTHING

    def want_of_answers(self, kind: str) -> Want:
        """What is needed of this kind's two answers: all but the state of the prompt."""
        return self.want(kind) & ~Want.PROMPT

    @property
    def prompts(self) -> tuple[str, ...]:
        """The sides of which the state of the prompt is needed."""
        return tuple(side for side in SIDES if Want.PROMPT in self.want(side))

    @property
    def anything(self) -> Want:
        """What is needed of any kind of pair; `Want.NOTHING` is false."""
        return functools.reduce(operator.or_, map(self.want, PAIR_KINDS))

    @property
    def of_rows(self) -> "Reads":
        """What one forward pass of one model gives: everything except mismatched pairs, which are scored for the whole batch at
        once, and divergences, which need a forward pass of both models."""
        return dataclasses.replace(self, source=self.source & ~KL, target=self.target & ~KL, mismatch="")

    @property
    def divergence(self) -> "Reads":
        return Reads(source=self.source & KL, target=self.target & KL)

    @property
    def storable(self) -> bool:
        """Whether anything is read, and all of it is what a cached reference stores: full distributions and the states of prompts
        are not."""
        return bool(self.anything) and not self.divergence.anything and not self.prompts


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """All sequences of a batch that one model reads, both sides together, in S rows of T tokens. So there is one forward pass
    with one gradient tree, and short sequences fill the space beside long ones. A padded batch is one with one segment per row.

    A slot is the number of a sequence of the batch's B rows: (2 * kind + answer) * B + row, with `PAIR_KINDS` and `ANSWERS`
    counted from 0; prompts alone have the numbers after all these, `prompt_slot`; -1 marks an unused entry. Everything is int32
    except `pool_weight_ST`, which is float32.
    """

    tokens_ST: Array
    position_ST: Array  # position of the token in its own sequence, for RoPE and the sliding window
    segment_ST: Array  # a query sees the keys whose kv_segment equals its segment; 0 = no sequence
    kv_segment_ST: Array  # as segment_ST, but 0 on a sequence's own padding, which attends to others and is never attended to
    answer_at_SA: Array  # the position whose state predicts the scored token
    answer_label_SA: Array  # the scored token
    answer_slot_SA: Array  # the sequence it belongs to, -1 = unused
    pool_slot_ST: Array  # the sequence whose pooled state this position enters, -1 = none
    pool_weight_ST: Array  # with this weight; the weights of a sequence sum to 1


def prompt_slot(side: str, rows: int) -> int:
    """The slot of the first of B = `rows` prompts of this side (see `Packed`)."""
    return (len(PAIR_KINDS) * len(ANSWERS) + SIDES.index(side)) * rows


class Places(NamedTuple):
    """Where tokens are, int32 (S, T): their position in their own sequence, and their segment of the row (0 = no sequence)."""

    position: Array
    segment: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SequenceScores:
    """One model's scores of B answers. A field that was not asked for is None."""

    logp_B: Array | None = None  # f32, nats: sum over the answer's tokens, end token included
    count_B: Array | None = None  # f32: number of those tokens
    hidden_BD: Array | None = None  # f32: pooled final-norm state
    kl_B: Array | None = None  # f32, nats: divergence of the next-token distributions, sum over the answer's tokens
    batch_mean_count: Array | None = None  # f32 (): mean count of the whole batch's rows; given for the policy's chosen answers

    @property
    def sum_logp_B(self) -> Array:
        """Log-probability, nats."""
        assert self.logp_B is not None
        return self.logp_B

    @property
    def mean_logp_B(self) -> Array:
        """Length-normalised log-probability, nats per token. An unused row (no tokens) gives 0."""
        assert self.logp_B is not None and self.count_B is not None
        return self.logp_B / jnp.maximum(self.count_B, 1.0)

    @property
    def mean_kl_B(self) -> Array:
        """Divergence, nats per token."""
        assert self.kl_B is not None and self.count_B is not None
        return self.kl_B / jnp.maximum(self.count_B, 1.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pair:
    """The two answers to B prompts: chosen (safe) and rejected (unsafe)."""

    chosen: SequenceScores
    rejected: SequenceScores

    @property
    def gap_B(self) -> Array:
        """Reward gap of sums, nats: log p(chosen) - log p(rejected)."""
        return self.chosen.sum_logp_B - self.rejected.sum_logp_B

    @property
    def mean_gap_B(self) -> Array:
        """Length-normalised reward gap, nats per token (arXiv:2505.16869, eqs. 6 and 7)."""
        return self.chosen.mean_logp_B - self.rejected.mean_logp_B


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("weight_B", "language_B", "prompt_B"), meta_fields=("languages", "group")
)
@dataclasses.dataclass(frozen=True)
class Rows:
    """What a method that reads prompts knows of its B rows beside their scores; the fields of `Batch` with these names.
    `languages`: the names to which `language_B` refers by index."""

    weight_B: Array
    language_B: Array
    prompt_B: Array
    languages: tuple[str, ...]
    group: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
    """One model's scores of the `PAIR_KINDS` of B rows; what was not read is None. `mismatch` has the rows of the whole batch,
    those of other microbatches included. `prompts`: side -> states of the prompts' last tokens, f32 (B, D), where they are read,
    zeros for a row that only fills up a batch; the policy's scores then have `rows` too."""

    source: Pair | None = None
    target: Pair | None = None
    mismatch: Pair | None = None
    parallel: Pair | None = None
    prompts: dict[str, Array] = dataclasses.field(default_factory=dict)
    rows: Rows | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """B parallel rows. Between the data pipeline and the step every array has a leading microbatch axis M. With a `group` above 1
    each run of that many rows holds all rows of one dominant prompt, filled up with rows of weight 0."""

    policy: Packed
    reference: Packed | Scores | None  # what the frozen reference reads, or its scores computed beforehand; None = nothing
    weight_B: Array  # f32: 1 for a row, 0 for those that only fill up a short last batch
    language_B: Array  # int32: index of the target's language in the run's list of languages
    mismatch: Packed | None = None  # the mismatched pairs, for both models, where a method reads them
    divergence: Packed | None = None  # the answers on which the two models' distributions are compared, where a method reads that
    prompt_B: Array | None = None  # int32: the first row with the same dominant prompt, where a method reads prompts
    group: int = dataclasses.field(default=1, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowLoss:
    """What a method returns: losses and metrics per row, not yet reduced; `by_language_B` is also split by target language."""

    loss_B: Array
    metrics_B: dict[str, Array]
    by_language_B: dict[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A weighted mean as sum and weight: microbatches and evaluation batches add up, and `value` divides at the end."""

    total: Array
    weight: Array

    @classmethod
    def of(cls, x_B: Array, weight_B: Array) -> "Mean":
        return cls(jnp.sum(x_B * weight_B), jnp.sum(weight_B))

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> Array:
        """The mean; NaN where the weight is 0."""
        return self.total / self.weight


Metrics = dict[str, Mean]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that an update changes, and that a checkpoint holds."""

    step: Any  # int32 (): updates done
    trainable: Params  # float32 masters: at these learning rates a bfloat16 weight would never move
    opt_state: Any


def cast(params: Params, dtype: Any) -> Params:
    return jax.tree.map(lambda p: p.astype(dtype), params)
