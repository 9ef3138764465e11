"""How does a data file become the batches of a run? Rows, tokens, the held-out part, the pipelines over each."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from mpo_jax.data.audit import Audit, audit, never
from mpo_jax.data.chat import PROGRESS, TRUNCATIONS, SidePlace, load_tokenizer, token_pairs
from mpo_jax.data.chat_format import TEMPLATES, chat_format
from mpo_jax.data.kept import Kept
from mpo_jax.data.pair_views import PAIRS, in_language, mismatched, monolingual
from mpo_jax.data.pipeline import Pipeline, ReferenceScores
from mpo_jax.data.row_file import open_rows
from mpo_jax.data.row_table import RowTable, first_id, languages_of, sides
from mpo_jax.data.rows import Row, read_texts
from mpo_jax.data.split import first_prompts, sample, split
from mpo_jax.data.token_table import Examples, Pairs
from mpo_jax.errors import InputError, check_choice
from mpo_jax.files.digests import digests, fingerprint
from mpo_jax.files.hub import TOKENIZER_FILES
from mpo_jax.files.paths import path_of
from mpo_jax.types import ChatFormat, Reads

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_AUDIT = "audit.json"
GAP_SAMPLE = 64  # training rows whose gaps are measured where nothing was held out


@dataclasses.dataclass
class DataConfig:
    """Rows and how they become tokens.

    `path`, `eval_path`: a JSON or JSONL file, or a Hugging Face data set `user/name[@revision][:split]`. Without `eval_path`,
    `eval_fraction` of the dominant prompts is held out, with all their rows. `texts`: a JSONL file of objects with `language`,
    `prompt` and `answer`, whose perplexity is reported before and after training. `template`: 'authors' is the prompt text of
    the authors' code, 'hf' the tokenizer's own chat template. `max_length` limits the tokens of prompt and response together;
    `truncation` says what happens to longer sequences (see `data.chat.token_pairs`). `pairs`: what to train on. 'parallel' keeps
    the rows as they are; the others make rows of one language each: 'source' of the distinct dominant pairs, 'both' of these and
    of the target pairs. `per_language`: train on the first so many prompts of each target language only, in an order that the
    run's seed draws; 0 = all. `cache`: a local folder where tokens and the audit are kept for later runs; '' = none.
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
    cache: str = "~/.cache/mpo_jax/data"

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

    def evaluating(self, source: bool) -> "Batching":
        """For the metrics of training, and in the same pass for what `measuring` gives."""
        return dataclasses.replace(self, policy=self.policy | Reads.answers(source), epochs=1)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Everything that turns rows into examples."""

    tokenizer: "PreTrainedTokenizerFast"
    form: ChatFormat
    max_length: int
    truncation: str
    kept: Kept
    key: dict[str, Any]  # what determines the tokens of a text

    @classmethod
    def of(
        cls,
        model_dir: Path,
        authors: ChatFormat | None,
        template: str,
        max_length: int,
        truncation: str = "keep_header",
        kept: Kept = Kept(),  # noqa: B008
    ) -> "Tokens":
        tokenizer = load_tokenizer(model_dir)
        form = chat_format(template, authors, tokenizer)
        files = fingerprint(digests(path_of(model_dir), TOKENIZER_FILES)) if kept.folder else None
        key = {"tokenizer": files, "form": dataclasses.asdict(form), "max_length": max_length, "truncation": truncation}
        return cls(tokenizer, form, max_length, truncation, kept, key)

    @classmethod
    def of_config(cls, model_dir: Path, authors: ChatFormat | None, config: DataConfig) -> "Tokens":
        return cls.of(model_dir, authors, config.template, config.max_length, config.truncation, Kept(config.cache))

    @property
    def pad_id(self) -> int:
        """Padding is recognised by its position, so any id will do; only the authors' pooling averages over its states."""
        for name in ("pad_token_id", "eos_token_id"):
            if (token := getattr(self.tokenizer, name)) is not None:
                return token
        return 0

    def pairs(self, rows: Sequence[RowTable]) -> "PairsOf":
        """The tokens of all pairs of these rows, which are of one data set: those that were kept, or new ones."""
        table = rows[0]
        numbers = np.unique(np.concatenate([pairs for of in rows for pairs in (of.source_pairs, of.target_pairs)]))
        numbers = numbers[numbers >= 0]
        texts = hashlib.blake2b(table.columns.pair_digest[numbers].tobytes(), digest_size=16).hexdigest()
        key = self.key | {"texts": texts}
        if (found := self.kept.find("tokens", key)) is not None:
            return PairsOf(numbers, Pairs.load(found), key)
        places = (SidePlace(*side) for side in tqdm(sides(table, numbers), **{**PROGRESS, "total": len(numbers)}))
        options: dict[str, Any] = {"max_length": self.max_length, "truncation": self.truncation}
        with self.kept.made("tokens", key) as folder:
            pairs = Pairs.written(token_pairs(places, self.tokenizer, self.form, **options), folder)
        return PairsOf(numbers, pairs, key)

    def examples(self, rows: Sequence[Row], pairs: "PairsOf | None" = None) -> Examples:
        """`pairs`: their tokens and perhaps others', where they are there."""
        table = RowTable.of(rows)
        return (pairs or self.pairs([table])).examples(table)

    def pipeline(
        self,
        rows: Sequence[Row],
        batching: Batching,
        languages: Sequence[str] | None = None,
        pairs: "PairsOf | None" = None,
    ) -> Pipeline:
        """`languages`: those to which the batches' indices refer, by default the languages of these rows. `pairs`: as in
        `examples`."""
        rows = RowTable.of(rows)
        examples = self.examples(rows, pairs)
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
class PairsOf:
    """The tokens of some pairs of a data set. `numbers`: those of the pairs, ascending; `key`: what determines the tokens."""

    numbers: np.ndarray
    pairs: Pairs
    key: dict[str, Any]

    def examples(self, rows: RowTable) -> Examples:
        """Of rows that have no other pairs."""

        def places(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            at = np.where(numbers < 0, -1, np.searchsorted(self.numbers, numbers)).astype(np.int32)
            return at, at

        pairs = {"source": places(rows.source_pairs), "target": places(rows.target_pairs)}
        if (rows.source_pairs < 0).all():
            del pairs["source"]
        return Examples(self.pairs, rows.ids, rows.columns.languages, rows.languages, pairs)


@dataclasses.dataclass(frozen=True)
class Parts:
    """The rows of a run. `measured` are those whose gaps are measured before and after: the held-out rows, or a sample of the
    training rows where none are held out; `measured_rows` names them, as in "64 of 600 training rows"."""

    train: RowTable
    held_out: RowTable
    measured: RowTable
    measured_rows: str


@dataclasses.dataclass(frozen=True)
class Data:
    """The rows of a run, ready to batch. `measured` and `measured_rows` are those of `Parts`; `gaps` reads the former where no
    rows are held out, and otherwise `held_out` does."""

    train: Pipeline
    held_out: Pipeline | None
    gaps: Pipeline | None
    measured: RowTable
    measured_rows: str
    texts: Pipeline | None
    rows: RowTable  # those of `train`
    kept: Kept = Kept()  # noqa: RUF009
    key: dict[str, Any] = dataclasses.field(default_factory=dict)  # what determines the tokens of `train`
    _found: dict[str, Audit] = dataclasses.field(default_factory=dict)

    def findings(self, given_up: Callable[[], bool] = never) -> dict[str, Audit]:
        """`audit` of `rows`, which is made, or read where it was kept, the first time that it is asked for. Errors: those of
        `audit`."""
        if not self._found:
            self._found.update(self._audited(given_up))
        return self._found

    def _audited(self, given_up: Callable[[], bool]) -> dict[str, Audit]:
        key = self.key | {"rows": self.rows.digest()}
        if (found := self.kept.find("audit", key)) is not None:
            return {name: Audit(**counts) for name, counts in json.loads((found / _AUDIT).read_text(encoding="utf-8")).items()}
        counted = audit(self.rows, self.train.examples, given_up)
        with self.kept.made("audit", key) as folder:
            text = json.dumps({name: dataclasses.asdict(counts) for name, counts in counted.items()})
            (folder / _AUDIT).write_text(text, encoding="utf-8")
        return counted

    def with_reference(self, scores: ReferenceScores) -> "Data":
        """The same training and held-out rows in the same order, with the reference's scores instead of its input."""

        def scored(pipeline: Pipeline) -> Pipeline:
            return dataclasses.replace(pipeline, reference=Reads(), scores=scores)

        return dataclasses.replace(self, train=scored(self.train), held_out=self.held_out and scored(self.held_out))


def divide(config: DataConfig, seed: int) -> Parts:
    """The rows that a run of this seed reads. Errors: those of `read_rows`, `split`, `first_prompts` and `monolingual`."""
    options: dict[str, Any] = {"allow_empty_prompt": config.allow_empty_prompt, "kept": Kept(config.cache)}
    rows = open_rows(config.path, **options)
    if config.eval_path is not None:
        train, held_out = rows, open_rows(config.eval_path, **options)
    else:
        train, held_out = split(rows, config.eval_fraction, seed)
    if config.per_language:
        train = first_prompts(train, config.per_language, seed)
    measured = held_out if len(held_out) else sample(train, GAP_SAMPLE)
    which = f"{len(held_out)} held-out rows" if len(held_out) else f"{len(measured)} of {len(train)} training rows"
    return Parts(monolingual(train, config.pairs), held_out, measured, which)


def most_rows(*parts: Sequence[Row]) -> int:
    """The number of rows of the dominant prompt that has the most; no prompt is in two parts. Errors: a row without a dominant
    side."""
    most = 0
    for table in map(RowTable.of, parts):
        if (alone := first_id(table.ids, table.source_pairs < 0)) is not None:
            raise InputError(
                f"The loss reads all rows of a dominant prompt together, but row '{alone}' has no 'source': give rows with "
                "one, and leave data.pairs out."
            )
        most = max(most, int(np.bincount(table.prompts).max(initial=0)))
    return most


def prepare(config: DataConfig, model_dir: Path, authors: ChatFormat | None, batching: Batching) -> Data:
    """Everything that a run reads. Errors: those of `divide`, `Tokens.of`, `token_pairs` and `data.pair_views`."""
    parts = divide(config, batching.seed)
    tokens = Tokens.of_config(model_dir, authors, config)
    if batching.policy.groups:
        batching = dataclasses.replace(batching, group=most_rows(parts.train, parts.held_out))
    languages = languages_of(parts.train, parts.held_out)  # one list for both: the objective names its metrics by it
    whole = [part for part in (parts.train, parts.held_out, parts.measured) if len(part)]
    own = [part for part in whole if part.columns is parts.train.columns]
    pairs = tokens.pairs(own)
    others = [part for part in whole if part.columns is not parts.train.columns]
    beside = tokens.pairs(others) if others else pairs  # those of rows that are held out in a file of their own
    train = tokens.pipeline(parts.train, batching, languages, pairs)
    source, held_out = bool(parts.measured.source_pairs[0] >= 0), len(parts.held_out) > 0
    return Data(
        train,
        tokens.pipeline(parts.held_out, batching.evaluating(source), languages, beside) if held_out else None,
        None if held_out else tokens.pipeline(parts.measured, batching.measuring(source), pairs=pairs),
        parts.measured,
        parts.measured_rows,
        tokens.pipeline(read_texts(config.texts), batching.measuring(source=False)) if config.texts is not None else None,
        parts.train,
        tokens.kept,
        pairs.key,
    )
