"""In which order does a run do things? From the download of a checkpoint to the export, and the loop in between."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from mpo_jax.checkpoints.hugging_face import check_export_dir
from mpo_jax.checkpoints.run_state import Checkpointer
from mpo_jax.data.dataset import Data
from mpo_jax.devices import processes
from mpo_jax.devices.interruption import Interrupted, Interruption
from mpo_jax.devices.sharding import batch_to_mesh
from mpo_jax.devices.standstill import Watch
from mpo_jax.errors import Diverged, InputError
from mpo_jax.evaluation.held_out import evaluate
from mpo_jax.files.json_files import write_json
from mpo_jax.files.paths import path_of, try_writing
from mpo_jax.models.decoder import Model
from mpo_jax.telemetry.flops import update_work
from mpo_jax.telemetry.memory import table
from mpo_jax.telemetry.throughput import Meter, Trace, parse_range
from mpo_jax.telemetry.writers import MetricsConfig, MetricWriter, Silent
from mpo_jax.training.assemble import Setup, set_up
from mpo_jax.training.config import TrainConfig, describe, format_config
from mpo_jax.training.memory_budget import budget
from mpo_jax.training.optim import make_optimizer
from mpo_jax.training.outcome import Measured, export, report
from mpo_jax.training.run_identity import identity
from mpo_jax.training.step import init_state
from mpo_jax.types import Params, TrainState


def train(config: TrainConfig, set_up: Callable[[TrainConfig], Setup] = set_up) -> None:
    """Runs `config` from the checkpoint's download to the export; `set_up` may give what an earlier run had. Errors: `InputError`
    with a sentence, nothing half-written; `Interrupted` where somebody asked it to stop."""
    begun = time.monotonic()
    description = describe(config)
    processes.say(format_config(description))
    folder = path_of(config.output)
    processes.on_first(lambda: _open(folder, config))
    _keep_programs(config.compilation_cache)
    setup = set_up(config)
    with jax.set_mesh(setup.mesh):
        # ---- the state
        data, updates = setup.data, setup.data.train.steps
        trace = Trace(_profiled(config.profile, updates), folder / "profile")
        processes.say(table(budget(config, setup.model, data, setup.abstract, setup.mesh)))
        belongs_to = identity(description, data, setup.model_files)
        checkpointer = Checkpointer(folder / "checkpoints", config.checkpoint, belongs_to)
        state = checkpointer.restore_latest(setup.abstract)
        if state is None:
            state = init_state(setup.masters(), make_optimizer(config.optim, updates), setup.mesh)
            before = setup.measure(state.params)
            if processes.first():
                before.save(folder / "before.json")
        # ---- the loop
        start = int(jax.device_get(state.step))
        if config.export.enabled and start < updates:
            processes.on_first(lambda: check_export_dir(folder / "export"))
        writer = _writer(config.metrics, folder, start, updates, description, data)
        meter, interruption, watch = Meter(list(setup.mesh.devices.flat)), Interruption(), Watch(config.hosts.patience)
        where = (setup.model, setup.mesh)
        loop = _Loop(config, data, *where, checkpointer, writer, meter, trace, interruption, watch, updates, begun)
        with contextlib.ExitStack() as owned:  # closed in any case, the last one first
            owned.enter_context(interruption)
            for resource in (checkpointer, writer, trace):
                owned.callback(resource.close)
            owned.enter_context(watch)
            owned.enter_context(jax.transfer_guard("disallow"))
            state = loop.run(start, state, setup.ref_params, *setup.programs(config))
        if interruption.asked:
            raise Interrupted(int(jax.device_get(state.step)), kept=config.checkpoint.every > 0)
        # ---- what came out
        after = setup.measure(state.params)
        tables = (
            report(folder, data, {"before": Measured.load(folder / "before.json"), "after": after}) if processes.first() else {}
        )
        if config.export.enabled:
            export(config, folder, setup.model_dir, setup.model, setup.family, state.params, data, tables)


@dataclasses.dataclass
class _Loop:
    """The order of a step is law: evaluate the old state, save it, take the next batch, step, log the step before."""

    config: TrainConfig
    data: Data
    model: Model
    mesh: Mesh
    checkpointer: Checkpointer
    writer: MetricWriter | Silent
    meter: Meter
    trace: Trace
    interruption: Interruption
    watch: Watch
    updates: int
    begun: float  # when the run began, by `time.monotonic`
    pending: tuple[int, dict[str, Any], int] | None = None  # updates done, metrics of the last, real tokens seen

    def run(self, start: int, state: TrainState, ref_params: Params, step: Any, eval_step: Any) -> TrainState:
        seen = self.data.train.tokens_before(start)
        for k in range(start, self.updates + 1):
            self.watch.begins(k)
            if k > start or k == 0:  # the run that wrote a checkpoint had evaluated it
                self._evaluate(k, state, ref_params, eval_step)
            stop = self.interruption.stops(k)
            if self.checkpointer.due(k, self.updates, stop):
                self._log()
                self.writer.flush()
                with self.meter.paused(state), self.watch.paused():
                    self.checkpointer.save(k, state)
            if self.trace.turns_at(k):
                with self.meter.paused(state), self.watch.paused():
                    self.writer.say(self.trace.turn())
            if k == self.updates or stop:
                break
            batch = self.data.train.batch_at(k)
            state, metrics = step(state, ref_params, batch_to_mesh(batch, self.mesh))
            self._log()
            tokens = self.data.train.tokens_at(k)
            seen += tokens
            self.pending = (k + 1, metrics, seen)
            self.writer.advance()
            self.meter.advance(tokens, update_work(self.model.config, batch))
            if k == start:
                jax.block_until_ready(state)
                since = time.monotonic() - self.begun
                self.writer.say(
                    f"first update: {self.meter.seconds:.1f} s, compilation included; done {since:.1f} s after the start"
                )
        self._log()
        return state

    def _evaluate(self, k: int, state: TrainState, ref_params: Params, eval_step: Any) -> None:
        every = self.config.eval_every
        if self.data.held_out is not None and (k in (0, self.updates) or (every and k % every == 0)):
            self._log()
            with self.meter.paused(state), self.watch.paused():
                values = evaluate(eval_step, state.params, ref_params, self.data.held_out, self.mesh)
            self.writer.write(k, values)
            said = {name.removeprefix("eval_"): x for name, x in values.items() if name.startswith("eval_loss")}
            self.writer.say(f"update {k}: " + ", ".join(f"{name} {said[name]:.4g}" for name in sorted(said)))

    def _log(self) -> None:
        """Writes the metrics of the step before, which by now is done: the device never waits for the log."""
        if self.pending is None:
            return
        k, metrics, seen = self.pending
        self.pending = None
        if k % self.config.metrics.every and k != self.updates:
            return
        host = jax.device_get(metrics)
        values = {name: float(mean.total / mean.weight) if mean.weight else math.nan for name, mean in host.items()}
        if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
            rows = [self.data.train.examples[i].id for i in self.data.train.rows_at(k - 1)]
            raise Diverged(
                f"The loss or gradient of update {k} is not finite (loss {values['loss']}, gradient norm {values['grad_norm']}; "
                f"rows {', '.join(rows)}): earlier checkpoints are untouched; lower optim.peak_lr, or look at those rows."
            )
        values["num_tokens"] = seen
        values["epoch"] = k / self.data.train.steps_per_epoch
        self.writer.write(k, values | self.meter.rates())


def _open(folder: Path, config: TrainConfig) -> None:
    try:
        held = folder.exists() and any(folder.iterdir())
        try_writing(folder)
    except OSError as error:
        raise InputError(
            f"The output folder {folder} cannot be written ({error.strerror}): choose another --config.output."
        ) from None
    if config.checkpoint.resume == "never" and held:
        raise InputError(
            f"{folder} already holds files: choose another --config.output, or continue with --config.checkpoint.resume=auto."
        )


def _writer(
    config: MetricsConfig, folder: Path, start: int, updates: int, description: dict[str, Any], data: Data
) -> MetricWriter | Silent:
    """Where metrics go, beside what the run is and what was found in its data."""
    if not processes.first():
        return Silent()
    writer = MetricWriter(config, folder, start, updates, description)
    write_json(folder / "config.json", description)
    write_json(folder / "audit.json", {language: dataclasses.asdict(found) for language, found in data.findings.items()})
    return writer


def _keep_programs(folder: str) -> None:
    """Compiled programs that took a second or more are read from `folder`, and written there for the next run; not where the
    person has switched JAX's cache off (JAX_ENABLE_COMPILATION_CACHE)."""
    kept = bool(folder) and jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    if kept:
        jax.config.update("jax_compilation_cache_dir", str(path_of(folder)))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    processes.say(f"compiled programs: kept in {folder}" if kept else "compiled programs: not kept")


def _profiled(text: str | None, updates: int) -> range:
    profiled = parse_range(text)
    if profiled.stop > updates:
        raise InputError(f"profile='{text}' ends after the last of this run's {updates} updates: choose numbers up to {updates}.")
    return profiled
