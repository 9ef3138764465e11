"""What are the frozen reference's scores of a run's rows? Each distinct pair is scored once, kept on disk, and added to batches.

The reference never changes, so its scores depend only on weights and tokens. Many rows share their dominant side: the authors'
600 rows have 100 distinct ones. Any later run with the same key can read the store, on any mesh and in any order of rows. Once
all scores are there, the reference's parameters need no memory.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mpo_jax.data.ahead import ahead
from mpo_jax.data.chat import Example
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.data.token_table import DIGEST, digest
from mpo_jax.devices import processes
from mpo_jax.devices.sharding import batch_to_mesh
from mpo_jax.errors import InputError
from mpo_jax.models.decoder import Model
from mpo_jax.scoring.reference_store import ScoreStore
from mpo_jax.scoring.sequences import ScoreStep
from mpo_jax.types import PAIR_KINDS, Pair, Params, Reads, Scores, SequenceScores, Want

FIELDS = {Want.LOGP: ("logp_B", "count_B"), Want.HIDDEN: ("hidden_BD",)}  # of `types.SequenceScores`


@dataclasses.dataclass(frozen=True)
class CachedReference:
    """The scores of every distinct pair of the sides that were read, f32 on the host.

    `arrays`: side -> field of `SequenceScores` -> (pairs + 1, 2 answers, ...); the last entry is zeros, for rows that only fill
    up a batch. `entry`: side -> digest of a pair's token ids -> its index.
    """

    arrays: dict[str, dict[str, np.ndarray]]
    entry: dict[str, dict[bytes, int]]

    def __call__(self, rows: Sequence[Example | None], microbatches: int) -> Scores:
        """The scores of B rows in M microbatches, (M, B / M) and (M, B / M, D), as `sequences.score` would give them."""
        pairs: dict[str, Any] = {side: self._pair(side, rows, microbatches) for side in self.arrays}
        return Scores(**pairs)

    def _pair(self, side: str, rows: Sequence[Example | None], microbatches: int) -> Pair:
        entry = self.entry[side]
        entries = [-1 if row is None else entry[digest(getattr(row, side))] for row in rows]
        entry_MB = np.asarray(entries).reshape(microbatches, -1)
        fields: Any = self.arrays[side].items()  # numpy arrays until they go to the devices
        return Pair(*(SequenceScores(**{name: x[entry_MB, which] for name, x in fields}) for which in (0, 1)))


@dataclasses.dataclass(frozen=True)
class _Side:
    """One side of the rows: its distinct pairs, the scores wanted of them, and the store of these."""

    pairs: dict[bytes, Example]
    want: Want
    store: ScoreStore


def cached_reference(
    model: Model,
    load: Callable[[], Params],
    reads: Reads,
    score_steps: Mapping[Want, ScoreStep],
    pipelines: Sequence[Pipeline],
    mesh: Mesh,
    *,
    folder: Path,
    identity: dict[str, Any],
    dtype: str,
) -> CachedReference:
    """The scores that `reads` asks for, of all rows of `pipelines`. Those already in `folder` are read from there. For the others
    `load` loads the reference's parameters in `dtype`, and `score_steps` (for what `stored_reads` gives) compute them as a live
    reference would. Then the parameters are deleted.

    `identity`: what else determines the scores, such as the digests of the model's files. Every process scores, the first one
    writes, and all must see the same folder. Errors: those of `ScoreStore`; scores that are not finite.
    """
    first = pipelines[0]
    examples = lambda: itertools.chain.from_iterable(pipeline.examples for pipeline in pipelines)  # noqa: E731
    wanted: dict[str, Want] = {side: want for side in PAIR_KINDS if (want := reads.want(side))}
    if not wanted:
        return CachedReference({}, {})
    identity = identity | {"dtype": dtype, "pooling": reads.pooling, "pad_id": first.pad_id}
    sides = {side: _side(folder / side, distinct(examples(), side), want, identity, model) for side, want in wanted.items()}
    missing = sum(side.store.entries - side.store.done for side in sides.values())
    rows = sum(len(pipeline.examples) for pipeline in pipelines)
    found = " and ".join(f"{len(side.pairs)} {name} pairs" for name, side in sides.items())
    gigabytes = sum(math.prod(p.shape) for p in jax.tree.leaves(model.abstract())) * jnp.dtype(dtype).itemsize / 1e9
    processes.say(
        f"reference: cached, {found} for {rows} rows in {folder} ({missing} to score); "
        f"{gigabytes:.3g} GB of reference parameters not kept in memory"
    )
    processes.wait("reference: every process has seen what is missing")
    if missing:
        params = load()
        for side in sides.values():
            _fill(side, score_steps[side.want], params, first, stored_reads(reads)[side.want], mesh)
        jax.tree.map(lambda x: x.delete(), params)
    processes.wait("reference: nothing is missing")
    arrays: dict[str, dict[str, np.ndarray]] = {name: _with_filling(side.store.read()) for name, side in sides.items()}
    return CachedReference(arrays, {name: {key: i for i, key in enumerate(side.pairs)} for name, side in sides.items()})


def stored_reads(reads: Reads) -> dict[Want, Reads]:
    """For each kind of score wanted of a pair, what a model reads of the pair, as the target side of an example."""
    wanted = dict.fromkeys(want for kind in PAIR_KINDS if (want := reads.want(kind)))
    return {want: Reads(target=want, pooling=reads.pooling) for want in wanted}


def stored_fields(want: Want, width: int) -> dict[str, tuple[int, ...]]:
    """Field of `SequenceScores` -> its shape for one answer of a model of this width."""
    shapes = {"logp_B": (), "count_B": (), "hidden_BD": (width,)}
    return {field: shapes[field] for part in want for field in FIELDS[part]}


def _side(folder: Path, pairs: dict[bytes, Example], want: Want, identity: dict[str, Any], model: Model) -> _Side:
    key = identity | {
        "reads": [str(part.name) for part in want],
        "pairs": len(pairs),
        "tokens": hashlib.blake2b(b"".join(pairs), digest_size=DIGEST).hexdigest(),
    }
    shapes = {field: (len(pairs), 2, *shape) for field, shape in stored_fields(want, model.config.hidden_size).items()}
    return _Side(pairs, want, ScoreStore(folder, key, shapes))


def of_pairs(like: Pipeline, pairs: Sequence[Example], reads: Reads) -> Pipeline:
    """Each of these pairs once, as the target of its example, in batches like those of `like`."""
    once = {"policy": reads, "reference": Reads(), "scores": None, "seed": None, "epochs": 1, "group": 1}
    return dataclasses.replace(like, examples=pairs, languages=("",), **once)


def _fill(side: _Side, score_step: ScoreStep, params: Params, like: Pipeline, reads: Reads, mesh: Mesh) -> None:
    """Scores the pairs that the store lacks, in batches like those of `like`."""
    store = side.store
    if store.done == store.entries:
        return
    pipeline = of_pairs(like, list(side.pairs.values())[store.done :], reads)
    with processes.progress(total=store.entries, initial=store.done, desc="reference", unit="pair") as bar:
        for step, batch in enumerate(ahead(map(pipeline.batch_at, range(pipeline.steps_per_epoch)))):
            rows = pipeline.rows_at(step)
            pair = jax.device_get(score_step(params, batch_to_mesh(batch, mesh)).target)
            values = {
                field: np.stack([getattr(pair.chosen, field), getattr(pair.rejected, field)], axis=1)[: len(rows)]
                for part in side.want
                for field in FIELDS[part]
            }
            _check_finite(values, [pipeline.examples[i].id for i in rows])
            if processes.first():
                store.append(values)
            bar.update(len(rows))


def _check_finite(values: dict[str, np.ndarray], ids: Sequence[str]) -> None:
    for field, x in values.items():
        if bad := [name for name, entry in zip(ids, x, strict=True) if not np.isfinite(entry).all()]:
            raise InputError(
                f"The reference's {field} of row {bad[0]} is not finite: check that row and the model, or set "
                "--config.reference_dtype=float32."
            )


def _with_filling(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds a last entry of zeros, at index -1, for rows that only fill up a batch."""
    return {name: np.concatenate([x, np.zeros_like(x[:1])]) for name, x in arrays.items()}


def distinct(examples: Iterable[Example], side: str) -> dict[bytes, Example]:
    """The distinct pairs of one side by digest, each as the target of an example with the id of its first row. They are sorted by
    digest, so that the store does not depend on the order of the rows or on which are held out."""
    pairs: dict[bytes, Example] = {}
    for example in examples:
        if (pair := getattr(example, side)) is not None:
            pairs.setdefault(digest(pair), Example(example.id, "", None, pair))
    return dict(sorted(pairs.items()))
