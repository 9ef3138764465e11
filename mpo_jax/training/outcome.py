"""What came out of a run? Reward gaps and perplexity before and after, plots, and the exported model with its card."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from mpo_jax.checkpoints.hugging_face import is_whole, save_hf
from mpo_jax.checkpoints.model_card import model_card
from mpo_jax.data.dataset import Data
from mpo_jax.devices import processes
from mpo_jax.evaluation.gap_table import GapLine, GapTable, bars, format_tables, gap_table
from mpo_jax.evaluation.held_out import measure_gaps, measure_perplexity
from mpo_jax.files.json_files import write_json
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.base import Family
from mpo_jax.scoring.sequences import make_score_step
from mpo_jax.telemetry.plots import plot_gaps, plot_losses
from mpo_jax.telemetry.writers import read_metrics
from mpo_jax.training.config import TrainConfig, describe
from mpo_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of one model: its gaps, and the perplexity of the texts by language (empty without texts)."""

    gaps: GapTable
    perplexity: dict[str, float]

    def save(self, path: Path) -> None:
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Measured":
        kept = json.loads(path.read_text(encoding="utf-8"))
        return cls([GapLine(**line) for line in kept["gaps"]], kept["perplexity"])


def make_measure(config: TrainConfig, model: Model, data: Data, mesh: Mesh) -> Callable[[Params], Measured]:
    """Parameters -> what is measured of them. The same function before and after training is compiled once."""
    dtype = jnp.dtype(config.compute_dtype)
    score_step = make_score_step(model, dtype, data.gaps.policy)
    text_step = make_score_step(model, dtype, data.texts.policy) if data.texts is not None else None

    def measure(params: Params) -> Measured:
        gaps = gap_table(measure_gaps(score_step, params, data.gaps, data.measured, mesh))
        if data.texts is None or text_step is None:
            return Measured(gaps, {})
        return Measured(gaps, measure_perplexity(text_step, params, data.texts, mesh))

    return measure


def report(folder: Path, data: Data, measured: dict[str, Measured]) -> dict[str, GapTable]:
    """`measured` "before" and "after": a table on the terminal, reward_gap.json and plots."""
    tables = {name: model.gaps for name, model in measured.items()}
    which = "held-out" if data.held_out is not None else "training"
    print(f"\nreward gap, nats per token, on {len(data.measured)} {which} rows [95 % interval]\n{format_tables(tables)}\n")
    content: dict[str, Any] = {name: [dataclasses.asdict(line) for line in table] for name, table in tables.items()}
    if data.texts is not None:
        content["perplexity"] = {name: model.perplexity for name, model in measured.items()}
        for language, before in measured["before"].perplexity.items():
            after = measured["after"].perplexity[language]
            print(f"perplexity of the texts in {language}: {before:.3f} before, {after:.3f} after")
    write_json(folder / "reward_gap.json", content)
    plot_gaps(bars(tables), folder / "reward_gap.png")
    plot_losses(read_metrics(folder / "metrics.jsonl"), folder / "loss.png")
    print(f"plots: {folder / 'loss.png'} and {folder / 'reward_gap.png'}")
    return tables


def export(
    config: TrainConfig, folder: Path, model_dir: Path, model: Model, family: Family, params: Params, data: Data, tables: Any
) -> None:
    """The aligned checkpoint in `folder/export`, and how many of its weights differ from the one that training began with."""
    out_dir = folder / "export"
    if is_whole(out_dir):
        processes.say(f"export: {out_dir} is there already, from the run that this one continues")
        return
    pipeline, dtype = data.train, config.export.dtype

    def card() -> str:
        last = next((line for line in reversed(read_metrics(folder / "metrics.jsonl")) if "loss" in line), {})
        languages, rows = list(pipeline.languages), len(pipeline.examples)
        return model_card(describe(config), languages=languages, rows=rows, metrics=last, gaps=format_tables(tables))

    written = save_hf(params, out_dir, model=model, family=family, source_dir=model_dir, dtype=dtype, model_card=card)
    if written is not None:
        share = written.changed_weights / written.total_weights
        print(
            f"export: {out_dir} in {dtype}; {written.changed_weights:,} of {written.total_weights:,} weights ({share:.1%}) "
            "differ from the source's"
        )
