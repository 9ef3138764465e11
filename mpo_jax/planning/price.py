"""What does a whole run take: at best, and by the speeds that others publish? In chip-hours, and in money."""

import dataclasses
import math

from mpo_jax.data.dataset import GAP_SAMPLE
from mpo_jax.planning.slice_fit import SliceReport
from mpo_jax.training.config import TrainConfig

# Shares of the peak FLOP/s (MFU) that are published for training models of this size on TPUs; docs/tpu.md names the runs.
PUBLISHED = (0.5, 0.2)


@dataclasses.dataclass(frozen=True)
class RunPrice:
    """Seconds of each part of a run that keeps the chips busy, or waiting."""

    updates: int
    chips: int
    best: dict[str, float]  # training by its bound, the others by their products, or the weights that they read
    published: tuple[dict[str, float], dict[str, float]]  # training and the other forward passes at the shares `PUBLISHED`

    def hours(self, parts: dict[str, float]) -> float:
        """Chip-hours."""
        return sum(parts.values()) * self.chips / 3600


def price(entry: SliceReport, config: TrainConfig, rows: int) -> RunPrice | None:
    """A run on `rows` rows; None where it does not fit, or the chip's peaks are not known. Held-out rows of a file of their own
    (`data.eval_path`) do not count, each row has a dominant pair of its own, and compilation takes the processor time of this
    machine."""
    if entry.bound is None or entry.peak_flops is None or entry.reading_seconds is None:
        return None
    held_out = round(rows * config.data.eval_fraction)
    updates = config.epochs * math.ceil((rows - held_out) / config.batch_size)
    evaluations = _moments(updates, config.eval_every)
    batches = lambda rows: math.ceil(rows / config.batch_size)  # noqa: E731
    measured = evaluations * batches(held_out) if held_out else 2 * batches(min(rows, GAP_SAMPLE))
    flops = {
        "training": updates * entry.update_flops,
        "scoring": batches(rows) * entry.forward_flops["scoring"],
        "evaluation": measured * entry.forward_flops["held out" if held_out else "gaps"],
    }
    waiting = {"compilation": entry.compile_seconds}
    if config.samples is not None:
        tokens = _moments(updates, config.samples.every) * config.samples.max_new_tokens
        waiting["samples"] = tokens * entry.reading_seconds  # each token reads all weights
    at = lambda share: {name: work / entry.peak_flops / share for name, work in flops.items()} | waiting  # noqa: E731
    best = at(1.0) | {"training": updates * entry.bound.seconds}
    return RunPrice(updates, entry.chips, best, (at(PUBLISHED[0]), at(PUBLISHED[1])))


def _moments(updates: int, every: int) -> int:
    """How often something is done before the first update, after the last, and after each `every` of them (0: not between)."""
    return 2 + ((updates - 1) // every if every else 0)
