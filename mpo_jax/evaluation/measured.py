"""What is measured of a model before and after training? Metrics on held-out rows, reward gaps, perplexity of texts."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from jax.sharding import Mesh

from mpo_jax.data.dataset import Data
from mpo_jax.evaluation.gap_table import GapLine, GapTable, gap_table
from mpo_jax.evaluation.held_out import Evaluation, measure_gaps, measure_perplexity, row_gaps
from mpo_jax.files.json_files import write_json
from mpo_jax.scoring.sequences import ScoreStep
from mpo_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Measured:
    """The gaps by language, the perplexity of the texts by language (empty without texts), and the metrics (empty without
    held-out rows)."""

    gaps: GapTable
    perplexity: dict[str, float]
    metrics: dict[str, float]

    def save(self, path: Path) -> None:
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Measured | None":
        """None where there is no such file, or an incomplete one."""
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return cls([GapLine(**line) for line in kept["gaps"]], dict(kept["perplexity"]), dict(kept["metrics"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def measure(evaluate: Callable[[], Evaluation], score_step: ScoreStep, params: Params, data: Data, mesh: Mesh) -> Measured:
    """One pass over the held-out rows, by `evaluate`, or over a sample of the training rows; and one over the texts."""
    if data.held_out is not None:
        metrics, scores = evaluate()
        gaps = row_gaps(scores, data.held_out, data.measured)
    else:
        assert data.gaps is not None
        metrics, gaps = {}, measure_gaps(score_step, params, data.gaps, data.measured, mesh)
    perplexity = {} if data.texts is None else measure_perplexity(score_step, params, data.texts, mesh)
    return Measured(gap_table(gaps), perplexity, metrics)
