"""What is logged of each update? Its metrics, one step late, so that the device never waits for the log."""

import functools
import math
import time

import jax

from mpo_jax.errors import Diverged
from mpo_jax.telemetry.flops import update_work
from mpo_jax.telemetry.throughput import Meter
from mpo_jax.telemetry.writers import MetricWriter, Silent
from mpo_jax.training.assemble import Assembly
from mpo_jax.types import Batch, Metrics


class UpdateLog:
    """Owns the metrics of the update in progress. Every loss is checked; every `every`-th update is written."""

    def __init__(self, writer: MetricWriter | Silent, meter: Meter, run: Assembly, every: int, done: int, begun: float):
        """`done`: updates done by earlier runs. `begun`: when the run began, by `time.monotonic`."""
        self._writer, self._meter, self._every, self._begun = writer, meter, every, begun
        self._pipeline = run.data.train
        self._work = functools.partial(update_work, run.model.config, trainable=run.programs.state.trainable)
        self._tokens = self._pipeline.tokens_before(done)  # real tokens of all updates so far
        self._first = done + 1
        self._pending: tuple[int, Metrics] | None = None  # the update under way, and its metrics

    def begins(self, update: int, metrics: Metrics, batch: Batch) -> None:
        """`update` (from 1) has been started; the one before it is done."""
        self.flush()
        tokens = self._pipeline.tokens_at(update - 1)
        self._tokens += tokens
        self._pending = (update, metrics)
        self._writer.advance()
        self._meter.advance(tokens, self._work(batch))
        if update == self._first:
            jax.block_until_ready(metrics)
            since = time.monotonic() - self._begun
            self._writer.say(f"first update: {self._meter.seconds:.1f} s with compilation; done {since:.1f} s after the start")

    def evaluated(self, update: int, values: dict[str, float]) -> None:
        """Logs the metrics on held-out rows after `update`, if there are such rows."""
        if not values:
            return
        self._writer.write(update, values)
        said = {name.removeprefix("eval_"): x for name, x in values.items() if name.startswith("eval_loss")}
        self._writer.say(f"update {update}: " + ", ".join(f"{name} {said[name]:.4g}" for name in sorted(said)))

    def flush(self) -> None:
        """Waits for the update in progress, and writes its metrics. Errors: a loss or gradient that is not finite."""
        if self._pending is None:
            return
        (update, metrics), self._pending = self._pending, None
        means = jax.device_get({name: metrics[name] for name in ("loss", "grad_norm")})
        loss, norm = (float(mean.total / mean.weight) for mean in means.values())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            rows = [self._pipeline.examples[i].id for i in self._pipeline.rows_at(update - 1)]
            raise Diverged(
                f"The loss or gradient of update {update} is not finite (loss {loss}, gradient norm {norm}; rows "
                f"{', '.join(rows)}): lower optim.peak_lr, or look at those rows; earlier checkpoints are untouched."
            )
        if update % self._every and update != self._pipeline.steps:
            return
        host = jax.device_get(metrics)
        values = {name: float(mean.total / mean.weight) if mean.weight else math.nan for name, mean in host.items()}
        values |= {"num_tokens": self._tokens, "epoch": update / self._pipeline.steps_per_epoch}
        self._writer.write(update, values | self._meter.rates())
