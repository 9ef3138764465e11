"""In which order does a run do things? From the download of a checkpoint to the export, and the loop in between."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mpo_jax.checkpoints.export_folder import check_export_dir
from mpo_jax.checkpoints.run_state import Checkpointer
from mpo_jax.data.ahead import ahead
from mpo_jax.data.conversation import Conversation
from mpo_jax.devices import processes
from mpo_jax.devices.interruption import Interrupted, Interruption
from mpo_jax.devices.sharding import batch_to_mesh
from mpo_jax.devices.standstill import StandstillGuard
from mpo_jax.errors import InputError
from mpo_jax.evaluation.measured import Measured
from mpo_jax.files.json_files import write_json
from mpo_jax.files.paths import path_of, try_writing
from mpo_jax.telemetry.memory import table
from mpo_jax.telemetry.throughput import Meter, Trace, parse_range
from mpo_jax.telemetry.writers import MetricsConfig, MetricWriter, Silent
from mpo_jax.training.assemble import Assembly, assemble
from mpo_jax.training.audit_beside import AuditBeside
from mpo_jax.training.config import TrainConfig, describe, format_config
from mpo_jax.training.memory_budget import budget
from mpo_jax.training.optim import make_optimizer
from mpo_jax.training.outcome import export, report
from mpo_jax.training.run_identity import identity
from mpo_jax.training.samples import Samples, prompts_of
from mpo_jax.training.step import init_state
from mpo_jax.training.update_log import UpdateLog
from mpo_jax.types import Batch, Params, TrainState


def train(config: TrainConfig, assemble: Callable[[TrainConfig], Assembly] = assemble) -> None:
    """Runs `config` from the download of the checkpoint to the export; `assemble` may reuse what an earlier run had. Errors:
    `InputError`, with nothing left half-written; `Interrupted` where the run was asked to stop."""
    begun = time.monotonic()
    description = describe(config)
    processes.say(format_config(description))
    folder = path_of(config.output)
    processes.on_first(lambda: _open(folder, config))
    _keep_programs(config.compilation_cache)
    run = assemble(config)
    with jax.set_mesh(run.mesh), AuditBeside(run.data, folder) as audit:
        # ---- the state
        updates, programs = run.data.train.steps, run.programs
        trace = Trace(_profiled(config.profile, updates), folder / "profile")
        processes.say(table(budget(config, run)))
        samples = _samples(config, run)
        belongs_to = identity(config, run.data, run.model_files)
        checkpointer = Checkpointer(folder / "checkpoints", config.checkpoint, belongs_to)
        before, masters = _measured_before(folder / "before.json", config, run, checkpointer)
        state = checkpointer.restore_latest(programs.state)
        if state is None:
            state = init_state(masters or run.masters(), make_optimizer(config.optim, updates), run.mesh)
        del masters
        # ---- the loop
        start = int(jax.device_get(state.step))
        if config.export.enabled and start < updates:
            processes.on_first(lambda: check_export_dir(folder / "export"))
        writer = _writer(config.metrics, folder, start, updates, description)
        meter, interruption, guard = Meter(list(run.mesh.devices.flat)), Interruption(), StandstillGuard(config.hosts.patience)
        log = UpdateLog(writer, meter, run, config.metrics.every, start, begun)
        with contextlib.ExitStack() as owned:  # closed whatever happens, the last one first
            owned.enter_context(interruption)
            for resource in (checkpointer, writer, trace):
                owned.callback(resource.close)
            if samples is not None:
                owned.enter_context(samples.writing(folder, start))
            owned.enter_context(guard)
            watchers = Watchers(checkpointer, writer, meter, trace, interruption, guard, samples, audit)
            batches = owned.enter_context(contextlib.closing(ahead(map(run.data.train.batch_at, range(start, updates)))))
            if start == 0:
                log.evaluated(0, before.metrics)
            with jax.transfer_guard("disallow"):
                state = go_through(config, run, state, start, batches, watchers, log)
            after = None
            if not interruption.asked:
                with watchers.paused(state):
                    after = run.measured(state.trainable, config)  # while the last state is being written
                log.evaluated(updates, after.metrics)
        if after is None or interruption.asked:
            raise Interrupted(int(jax.device_get(state.step)), kept=config.checkpoint.every > 0)
        # ---- the results: the export first, since everything else can be made again
        if config.export.enabled:
            export(config, folder, run, state.trainable, {"before": before.gaps, "after": after.gaps})
        audit.publish(processes.say, wait=True)
        if processes.first():
            report(config, folder, run.data, before, after)


class Watchers(NamedTuple):
    """What is called between the updates of a run."""

    checkpointer: Checkpointer
    writer: MetricWriter | Silent
    meter: Meter
    trace: Trace
    interruption: Interruption
    guard: StandstillGuard
    samples: Samples | None
    audit: AuditBeside

    @contextlib.contextmanager
    def paused(self, state: TrainState) -> Iterator[None]:
        """The time spent inside does not count as time of an update."""
        with self.meter.paused(state), self.guard.paused():
            yield


def go_through(
    config: TrainConfig,
    run: Assembly,
    state: TrainState,
    start: int,
    batches: Iterator[Batch],
    watchers: Watchers,
    log: UpdateLog,
) -> TrainState:
    """All updates from `start` on, with these batches. The order is fixed: evaluate the old state, let it answer, save it, take
    the next batch, step, log the step before. The first and the last state are evaluated where they are measured."""
    pipeline, numbers = run.data.train, run.numbers(config)
    for k in range(start, pipeline.steps + 1):
        watchers.guard.begins(k)
        watchers.audit.publish(watchers.writer.say)
        resumed = k == start and k > 0  # the run that wrote the checkpoint has already evaluated it, and had its answers
        if run.data.held_out is not None and not resumed and _evaluates(config, k, pipeline.steps):
            log.flush()
            with watchers.paused(state):
                found = run.evaluated(state.trainable, config)
            log.evaluated(k, found.metrics)
        if watchers.samples is not None and not resumed and watchers.samples.due(k, pipeline.steps):
            log.flush()
            with watchers.paused(state):
                for line in watchers.samples.write(k, run.weights(state.trainable)):
                    watchers.writer.say(line)
        stop = watchers.interruption.stops(k)
        if watchers.checkpointer.due(k, pipeline.steps, stop):
            log.flush()  # checks the loss: a state that is not finite is never saved
            watchers.writer.flush()
            if watchers.samples is not None:
                watchers.samples.flush()
            with watchers.paused(state):
                watchers.checkpointer.save(k, state)
        if watchers.trace.turns_at(k):
            with watchers.paused(state):
                watchers.writer.say(watchers.trace.turn())
        if k == pipeline.steps or stop:
            break
        batch = next(batches)
        state, metrics = run.programs.train(state, run.frozen, batch_to_mesh(batch, run.mesh), numbers)
        log.begins(k + 1, metrics, batch)
    log.flush()
    return state


def _evaluates(config: TrainConfig, k: int, last: int) -> bool:
    return config.eval_every > 0 and 0 < k < last and k % config.eval_every == 0


def _samples(config: TrainConfig, run: Assembly) -> Samples | None:
    if config.samples is None:
        return None
    return Samples(
        config.samples,
        prompts_of(config.samples, run.data),
        Conversation.of(run.model_dir, run.family.authors_chat, config.data.template),
        run.model,
        list(run.mesh.devices.flat),
        jnp.dtype(config.compute_dtype),
        run.positions,
    )


def _measured_before(
    path: Path, config: TrainConfig, run: Assembly, checkpointer: Checkpointer
) -> tuple[Measured, Params | None]:
    """The measurements of the model that the run starts from, and that model's masters where a run without a checkpoint has
    loaded them. A run that continues reads the measurements that it wrote; where they are gone, it measures again."""
    continues = checkpointer.newest() is not None
    if continues and processes.on_first(lambda: Measured.load(path) is not None):
        kept = Measured.load(path)
        assert kept is not None, f"{path} is not seen by process {jax.process_index()}"
        return kept, None
    masters = run.masters()
    before = run.measured(masters, config)
    if processes.first():
        before.save(path)
    return before, None if continues else masters


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
            f"{folder} is not empty: choose another --config.output, or continue with --config.checkpoint.resume=auto."
        )


def _writer(config: MetricsConfig, folder: Path, start: int, updates: int, description: dict[str, Any]) -> MetricWriter | Silent:
    """The writer of the metrics; also writes the config."""
    if not processes.first():
        return Silent()
    writer = MetricWriter(config, folder, start, updates, description)
    write_json(folder / "config.json", description)
    return writer


def _keep_programs(folder: str) -> None:
    """Programs that take a second or more to compile are kept in `folder` for later runs, unless the user has switched JAX's
    cache off (JAX_ENABLE_COMPILATION_CACHE)."""
    kept = bool(folder) and jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    if kept:
        jax.config.update("jax_compilation_cache_dir", str(path_of(folder)))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    processes.say(f"compiled programs: kept in {folder}" if kept else "compiled programs: not kept")


def _profiled(text: str | None, updates: int) -> range:
    profiled = parse_range(text)
    if profiled.stop > updates:
        raise InputError(f"profile='{text}' goes beyond the {updates} updates of this run: choose numbers up to {updates}.")
    return profiled
