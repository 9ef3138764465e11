"""How good is a model on rows it does not learn from? Held-out metrics, reward gaps, perplexity."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mpo_jax.data.ahead import ahead
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.data.rows import Row
from mpo_jax.devices import processes
from mpo_jax.devices.sharding import batch_to_mesh
from mpo_jax.evaluation.gap_table import RowGap
from mpo_jax.models.parameters import Frozen
from mpo_jax.scoring.sequences import ScoreStep
from mpo_jax.types import Array, Batch, Metrics, Numbers, Pair, Params, Scores


class Evaluation(NamedTuple):
    """The metrics of training over all rows of a pipeline, each row counted once, under TRL's prefix `eval_`, without those of
    languages that have no row; and the scores of the answers, by batch, on the host."""

    metrics: dict[str, float]
    scores: list[Scores]


def evaluate(
    eval_step: Callable[..., tuple[Metrics, Scores]],
    trainable: Params,
    frozen: Frozen,
    numbers: Numbers,
    pipeline: Pipeline,
    mesh: Mesh,
) -> Evaluation:
    """One pass over `pipeline`."""
    sums: Metrics = {}
    scores = []
    for batch in _batches(pipeline, "evaluate"):
        metrics, of_batch = eval_step(trainable, frozen, batch_to_mesh(batch, mesh), numbers)
        sums = {name: sums[name] + mean if sums else mean for name, mean in metrics.items()}
        scores.append(of_batch)
    sums, scores = jax.device_get((sums, scores))
    return Evaluation({f"eval_{name}": float(mean.total / mean.weight) for name, mean in sums.items() if mean.weight}, scores)


def mean_gap(pair: Pair) -> Array:
    """The length-normalised reward gap, nats per token, f32 (B,)."""
    return pair.mean_gap_B


def measure_gaps(
    score_step: ScoreStep,
    params: Params,
    pipeline: Pipeline,
    rows: Sequence[Row],
    mesh: Mesh,
    gap: Callable[[Pair], Array] = mean_gap,
) -> list[RowGap]:
    """The gap of every row on both sides; `rows` are the rows of the pipeline's examples, in order."""
    batches = _batches(pipeline, "reward gaps")
    return row_gaps((jax.device_get(score_step(params, batch_to_mesh(batch, mesh))) for batch in batches), pipeline, rows, gap)


def row_gaps(
    scores: Iterable[Scores], pipeline: Pipeline, rows: Sequence[Row], gap: Callable[[Pair], Array] = mean_gap
) -> list[RowGap]:
    """As `measure_gaps`, from the scores of the pipeline's batches."""
    gaps: dict[int, RowGap] = {}
    for step, of_batch in enumerate(scores):
        sides = {"source": of_batch.source, "target": of_batch.target}
        gap_B = {side: np.asarray(gap(pair)) for side, pair in sides.items() if pair is not None}
        for k, i in enumerate(pipeline.in_given_order.places_at(step)):
            if i < 0:
                continue
            row, dominant = rows[i], {}
            if row.source is not None:
                dominant = {
                    "source_language": row.source.language,
                    "source_key": json.dumps([row.source.prompt, row.source.chosen, row.source.rejected]),
                    "source_gap": float(gap_B["source"][k]),
                }
            gaps[i] = RowGap(row.id, row.target.language, float(gap_B["target"][k]), **dominant)
    return [gaps[i] for i in range(len(rows))]


def measure_perplexity(score_step: ScoreStep, params: Params, pipeline: Pipeline, mesh: Mesh) -> dict[str, float]:
    """exp(-mean log-probability of an answer token) per language, over the chosen answers of the target side."""
    sums = {language: np.zeros(2) for language in pipeline.languages}
    for batch in _batches(pipeline, "perplexity"):
        chosen = jax.device_get(score_step(params, batch_to_mesh(batch, mesh))).target.chosen
        weight, language = batch.weight_B.reshape(-1), batch.language_B.reshape(-1)
        for i in np.flatnonzero(weight).tolist():
            sums[pipeline.languages[int(language[i])]] += (chosen.logp_B[i], chosen.count_B[i])
    return {language: math.exp(-logp / count) for language, (logp, count) in sums.items() if count}


def _batches(pipeline: Pipeline, what: str) -> Iterable[Batch]:
    return processes.progress(
        ahead(pipeline.eval_batches()), desc=what, total=pipeline.steps_per_epoch, unit="batch", delay=2, leave=False
    )
