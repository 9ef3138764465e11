"""How does a data file become the batches of a run? Rows, tokens, the held-out part, the pipelines over each."""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpo_jax.data.audit import Audit, audit
from mpo_jax.data.chat import TRUNCATIONS, Example, load_tokenizer, tokenize
from mpo_jax.data.chat_format import TEMPLATES, chat_format
from mpo_jax.data.pair_views import PAIRS, in_language, mismatched, monolingual
from mpo_jax.data.pipeline import Pipeline, ReferenceScores
from mpo_jax.data.rows import Row, read_rows, read_texts
from mpo_jax.data.split import first_prompts, prompt_of, sample, split
from mpo_jax.errors import InputError, check_choice
from mpo_jax.types import ChatFormat, Reads

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

GAP_SAMPLE = 64  # training rows whose gaps are measured where nothing was held out


@dataclasses.dataclass
class DataConfig:
    """Rows and how they become tokens.

    `path`, `eval_path`: a JSON or JSONL file, or a Hugging Face data set `user/name[@revision][:split]`. Without `eval_path`,
    `eval_fraction` of the dominant prompts is held out, with all their rows. `texts`: a JSONL file of objects with `language`,
    `prompt` and `answer`, whose perplexity is reported before and after training. `template`: 'authors' is the prompt text of
    the authors' code, 'hf' the tokenizer's own chat template. `max_length` limits the tokens of prompt and response together;
    `truncation` says what happens to longer sequences (see `data.chat.tokenize`). `pairs`: what to train on. 'parallel' keeps
    the rows as they are; the others make rows of one language each: 'source' of the distinct dominant pairs, 'both' of these and
    of the target pairs. `per_language`: train on the first so many prompts of each target language only, in an order that the
    run's seed draws; 0 = all.
    """

    path: str
    eval_path: str | None = None
    eval_fraction: float = 0.0
    texts: str | None = None
    template: str = "authors"
    max_length: int = 1024
    truncation: str = "keep_header"
    allow_empty_prompt: bool = False
    pairs: str = "parallel"
    per_language: int = 0

    def __post_init__(self) -> None:
        check_choice("data.template", self.template, TEMPLATES)
        check_choice("data.truncation", self.truncation, TRUNCATIONS)
        check_choice("data.pairs", self.pairs, PAIRS)
        if self.per_language < 0:
            raise InputError(f"data.per_language={self.per_language} must not be negative: a number of prompts, or 0 for all.")
        if self.eval_fraction and self.eval_path:
            raise InputError(
                f"data.eval_path={self.eval_path!r} and data.eval_fraction={self.eval_fraction} both hold out rows: leave the "
                "path out, or set data.eval_fraction=0."
            )


@dataclasses.dataclass(frozen=True)
class Batching:
    """How examples become batches (`data.pipeline.Pipeline`). `policy` and `reference`: what each of the two models reads;
    `group`: how many rows of a batch a dominant prompt takes."""

    batch_size: int
    policy: Reads
    reference: Reads = dataclasses.field(default_factory=Reads)
    epochs: int = 1
    microbatches: int = 1
    shards: int = 1
    seed: int = 0
    group: int = 1

    def measuring(self, source: bool) -> "Batching":
        """For one model's log-probabilities of the target side and, if there is one, of the source side."""
        return dataclasses.replace(self, policy=Reads.answers(source), reference=Reads(), epochs=1, group=1)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Everything that turns rows into examples."""

    tokenizer: "PreTrainedTokenizerFast"
    form: ChatFormat
    max_length: int
    truncation: str

    @classmethod
    def of(
        cls, model_dir: Path, authors: ChatFormat | None, template: str, max_length: int, truncation: str = "keep_header"
    ) -> "Tokens":
        tokenizer = load_tokenizer(model_dir)
        return cls(tokenizer, chat_format(template, authors, tokenizer), max_length, truncation)

    @classmethod
    def of_config(cls, model_dir: Path, authors: ChatFormat | None, config: DataConfig) -> "Tokens":
        return cls.of(model_dir, authors, config.template, config.max_length, config.truncation)

    @property
    def pad_id(self) -> int:
        """Padding is recognised by its position, so any id will do; only the authors' pooling averages over its states."""
        for name in ("pad_token_id", "eos_token_id"):
            if (token := getattr(self.tokenizer, name)) is not None:
                return token
        return 0

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        return tokenize(rows, self.tokenizer, self.form, max_length=self.max_length, truncation=self.truncation)

    def pipeline(self, rows: Sequence[Row], batching: Batching, languages: Sequence[str] | None = None) -> Pipeline:
        """`languages`: those to which the batches' indices refer, by default the languages of these rows."""
        examples = self.examples(rows)
        if side := batching.policy.mismatch:
            examples = mismatched(examples, side, self.max_length)
        if language := batching.reference.parallel:
            examples = in_language(rows, examples, language)
        return Pipeline(
            examples,
            languages or languages_of(rows),
            pad_id=self.pad_id,
            **{field.name: getattr(batching, field.name) for field in dataclasses.fields(batching)},
        )


@dataclasses.dataclass(frozen=True)
class Parts:
    """The rows of a run. `measured` are those whose gaps are measured before and after: the held-out rows, or a sample of the
    training rows where none are held out; `measured_rows` names them, as in "64 of 600 training rows"."""

    train: list[Row]
    held_out: list[Row]
    measured: list[Row]
    measured_rows: str


@dataclasses.dataclass(frozen=True)
class Data:
    """The rows of a run, ready to batch. `measured` (the rows of `gaps`) and `measured_rows` are those of `Parts`."""

    train: Pipeline
    held_out: Pipeline | None
    gaps: Pipeline
    measured: Sequence[Row]
    measured_rows: str
    texts: Pipeline | None
    rows: Sequence[Row]  # those of `train`

    @functools.cached_property
    def findings(self) -> dict[str, Audit]:
        """Per target language. Computed only in the process that writes them down."""
        return audit(self.rows, self.train.examples)

    def with_reference(self, scores: ReferenceScores) -> "Data":
        """The same training and held-out rows in the same order, with the reference's scores instead of its input."""

        def scored(pipeline: Pipeline) -> Pipeline:
            return dataclasses.replace(pipeline, reference=Reads(), scores=scores)

        return dataclasses.replace(self, train=scored(self.train), held_out=self.held_out and scored(self.held_out))


def languages_of(rows: Iterable[Row]) -> list[str]:
    return sorted({row.target.language for row in rows})


def divide(config: DataConfig, seed: int) -> Parts:
    """The rows that a run of this seed reads. Errors: those of `read_rows`, `split`,
    `first_prompts` and `monolingual`."""
    rows = read_rows(config.path, allow_empty_prompt=config.allow_empty_prompt)
    if config.eval_path is not None:
        train, held_out = rows, read_rows(config.eval_path, allow_empty_prompt=config.allow_empty_prompt)
    else:
        train, held_out = split(rows, config.eval_fraction, seed)
    if config.per_language:
        train = first_prompts(train, config.per_language, seed)
    measured = held_out or sample(train, GAP_SAMPLE)
    which = f"{len(held_out)} held-out rows" if held_out else f"{len(measured)} of {len(train)} training rows"
    return Parts(monolingual(train, config.pairs), held_out, measured, which)


def most_rows(rows: Iterable[Row]) -> int:
    """The number of rows of the dominant prompt that has the most. Errors: a row without a dominant side."""
    rows = list(rows)
    if alone := [row for row in rows if row.source is None]:
        raise InputError(
            f"The loss reads all rows of a dominant prompt together, but row '{alone[0].id}' has no 'source': give rows with "
            "one, and leave data.pairs out."
        )
    return max(collections.Counter(prompt_of(row) for row in rows).values())


def prepare(config: DataConfig, model_dir: Path, authors: ChatFormat | None, batching: Batching) -> Data:
    """Everything that a run reads. Errors: those of `divide`, `Tokens.of`, `tokenize` and `data.pair_views`."""
    parts = divide(config, batching.seed)
    tokens = Tokens.of_config(model_dir, authors, config)
    if batching.policy.groups:
        batching = dataclasses.replace(batching, group=most_rows([*parts.train, *parts.held_out]))
    languages = languages_of([*parts.train, *parts.held_out])  # one list for both: the objective names its metrics by it
    train = tokens.pipeline(parts.train, batching, languages)
    evaluated = tokens.pipeline(parts.held_out, dataclasses.replace(batching, epochs=1), languages) if parts.held_out else None
    return Data(
        train,
        evaluated,
        tokens.pipeline(parts.measured, batching.measuring(source=parts.measured[0].source is not None)),
        parts.measured,
        parts.measured_rows,
        tokens.pipeline(read_texts(config.texts), batching.measuring(source=False)) if config.texts is not None else None,
        parts.train,
    )
