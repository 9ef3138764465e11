"""What are the reward gaps of a model, and which files are they written to?"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from mpo_jax.checkpoints.peft_folder import load_with_adapter
from mpo_jax.data.dataset import Batching, Tokens
from mpo_jax.data.rows import Row
from mpo_jax.devices.sharding import shards
from mpo_jax.evaluation.gap_table import GapTable, RowGap, bars, gap_table
from mpo_jax.evaluation.held_out import mean_gap, measure_gaps
from mpo_jax.files import hub
from mpo_jax.files.json_files import replace_text, write_json
from mpo_jax.models.families.registry import build
from mpo_jax.scoring.sequences import make_score_step
from mpo_jax.telemetry.plots import plot_gaps
from mpo_jax.types import Array, Pair, Reads


def gaps_of(
    name: str,
    rows: Sequence[Row],
    gap: Callable[[Pair], Array] = mean_gap,
    *,
    mesh: jax.sharding.Mesh,
    batch_size: int,
    template: str,
    max_length: int,
    dtype: str,
    adapter: str | None = None,
) -> list[RowGap]:
    """The gaps of every row under one model, with that model's own tokenizer, and an adapter where one is given. `dtype`: that of
    the computation."""
    model_dir = hub.resolve(name)
    family, model, _ = build(model_dir)
    tokens = Tokens.of(model_dir, family.authors_chat, template, max_length)
    reads = Reads.answers(source=rows[0].source is not None)
    pipeline = tokens.pipeline(rows, Batching(batch_size, reads, shards=shards(mesh, "batch")))
    params = load_with_adapter(model_dir, model, family, mesh, jnp.dtype(dtype), adapter)
    score_step = make_score_step(model, jnp.dtype(dtype), pipeline.policy)
    return measure_gaps(score_step, params, pipeline, rows, mesh, gap)


def write_gaps(folder: Path, measured: dict[str, list[RowGap]], what: str) -> dict[str, GapTable]:
    """Writes rows.jsonl, reward_gap.json and reward_gap.png. `measured`: label -> the gaps of one model, for example
    {'before': ..., 'after': ...}. `what`: the quantity and its unit."""
    tables = {label: gap_table(gaps) for label, gaps in measured.items()}
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for label, gaps in measured.items():
        for gap in gaps:
            row = {k: v for k, v in dataclasses.asdict(gap).items() if k != "source_key"}  # it repeats the row's text
            lines.append(json.dumps({"model": label, **row}, ensure_ascii=False) + "\n")
    replace_text(folder / "rows.jsonl", "".join(lines))
    write_json(folder / "reward_gap.json", {label: [dataclasses.asdict(line) for line in t] for label, t in tables.items()})
    plot_gaps(bars(tables), folder / "reward_gap.png", what)
    return tables
