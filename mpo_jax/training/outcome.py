"""What does a run leave? Gaps and perplexity before and after, plots, a page, and the exported model with its card."""

import dataclasses
from pathlib import Path
from typing import Any

from mpo_jax.checkpoints.export_folder import is_whole
from mpo_jax.checkpoints.hugging_face import ExportReport, save_hf
from mpo_jax.checkpoints.model_card import model_card
from mpo_jax.checkpoints.peft_folder import save_adapter
from mpo_jax.data.dataset import Data
from mpo_jax.devices import processes
from mpo_jax.evaluation.gap_table import GapTable, bars, format_tables
from mpo_jax.evaluation.measured import Measured
from mpo_jax.files.json_files import write_json
from mpo_jax.reporting.page import write_page_of_run
from mpo_jax.telemetry.plots import plot_gaps, plot_losses
from mpo_jax.telemetry.writers import read_metrics
from mpo_jax.training.assemble import Assembly
from mpo_jax.training.config import TrainConfig, describe
from mpo_jax.training.samples import NAME, compared
from mpo_jax.types import Params


def export(config: TrainConfig, folder: Path, run: Assembly, trainable: Params, tables: dict[str, GapTable]) -> None:
    """Writes the aligned checkpoint to `folder/export`, and says how its weights differ from the original model's; and an
    adapter by itself to `folder/adapter`."""
    out_dir = folder / "export"
    if is_whole(out_dir):
        processes.say(f"export: {out_dir} already exists, written by the run that this one continues")
        return
    if config.lora.rank:
        adapter = folder / "adapter"
        if not is_whole(adapter):
            save_adapter(trainable, adapter, model=run.model, family=run.family, config=config.lora, base=config.model)
        processes.say(f"adapter: {adapter}, for PEFT")
    data = run.data

    def card(written: ExportReport) -> str:
        return model_card(
            describe(config),
            languages=list(data.train.languages),
            rows=len(data.train.examples),
            metrics=next((line for line in reversed(read_metrics(folder / "metrics.jsonl")) if "loss" in line), {}),
            gaps=format_tables(tables),
            measured_rows=data.measured_rows,
            samples=compared(folder) if config.samples is not None else "",
            changes=str(written),
        )

    written = save_hf(
        run.learnt(trainable),
        out_dir,
        model=run.model,
        family=run.family,
        source_dir=run.model_dir,
        dtype=config.export.dtype,
        model_card=card,
    )
    if written is not None:
        print(f"export: {out_dir}; {written}")


def report(config: TrainConfig, folder: Path, data: Data, before: Measured, after: Measured) -> None:
    """Prints the tables and answers, and writes reward_gap.json, the plots and the page."""
    measured = {"before": before, "after": after}
    tables = {name: model.gaps for name, model in measured.items()}
    print(f"\nreward gap, nats per token, on {data.measured_rows} [95 % interval]\n{format_tables(tables)}\n")
    content: dict[str, Any] = {name: [dataclasses.asdict(line) for line in table] for name, table in tables.items()}
    if data.texts is not None:
        content["perplexity"] = {name: model.perplexity for name, model in measured.items()}
        for language, was in before.perplexity.items():
            print(f"perplexity of the texts in {language}: {was:.3f} before, {after.perplexity[language]:.3f} after")
    write_json(folder / "reward_gap.json", content)
    plot_gaps(bars(tables), folder / "reward_gap.png")
    plot_losses(read_metrics(folder / "metrics.jsonl"), folder / "loss.png")
    print(f"plots: {folder / 'loss.png'} and {folder / 'reward_gap.png'}")
    print(f"all of it on one page: {write_page_of_run(folder, folder.name)}")
    if config.samples is not None and (text := compared(folder)):
        print(f"\nsamples, all of them in {folder / NAME}\n{text}")
