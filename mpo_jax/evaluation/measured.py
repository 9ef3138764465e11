"""What is measured of a model? Its reward gaps and its perplexity on texts, kept in the run's folder."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from jax.sharding import Mesh

from mpo_jax.data.dataset import Data
from mpo_jax.evaluation.gap_table import GapLine, GapTable, gap_table
from mpo_jax.evaluation.held_out import measure_gaps, measure_perplexity
from mpo_jax.files.json_files import write_json
from mpo_jax.scoring.sequences import ScoreStep
from mpo_jax.types import Params, Reads


@dataclasses.dataclass(frozen=True)
class Measured:
    """The gaps by language, and the perplexity of the texts by language (empty without texts)."""

    gaps: GapTable
    perplexity: dict[str, float]

    def save(self, path: Path) -> None:
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Measured | None":
        """None where there is no such file, or an incomplete one."""
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return cls([GapLine(**line) for line in kept["gaps"]], dict(kept["perplexity"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def measure(steps: Mapping[Reads, ScoreStep], params: Params, data: Data, mesh: Mesh) -> Measured:
    """`steps`: the programs that score `data.gaps` and `data.texts`, by what they read. With the same programs before and after
    training, each is compiled once."""
    gaps = gap_table(measure_gaps(steps[data.gaps.policy], params, data.gaps, data.measured, mesh))
    if data.texts is None:
        return Measured(gaps, {})
    return Measured(gaps, measure_perplexity(steps[data.texts.policy], params, data.texts, mesh))
