"""How fast are the updates? Rates since the last line of the log, and a profiler's trace of some updates."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from mpo_jax.errors import InputError
from mpo_jax.files.paths import written_locally
from mpo_jax.telemetry.flops import Work

# Peak bfloat16 FLOP/s of one device without sparsity, by JAX's `device_kind`. A kind that is not here has no `mfu`.
PEAK = {
    # cloud.google.com/tpu/docs: the page of each version, "peak compute per chip (bf16)"; a chip is one device.
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    # NVIDIA's data sheets of the A100, H100 and H200; half of the figure "with sparsity" where only that is given.
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989.5e12,
    "NVIDIA H100 PCIe": 756.5e12,
    "NVIDIA H200": 989.5e12,
}


class Meter:
    """Owns the clock of the updates. `devices`: all devices of the run; memory is measured on this process's own."""

    def __init__(self, devices: Sequence[Any]):
        self._devices = devices
        self._since, self._updates, self._tokens, self._work = time.monotonic(), 0, 0, Work()

    def advance(self, tokens: int, work: Work) -> None:
        """One more update has started, with this many real tokens on the rows' sides, and this work in its packed rows."""
        self._updates += 1
        self._tokens += tokens
        self._work += work

    @property
    def seconds(self) -> float:
        """Since the last call of `rates`, without pauses."""
        return time.monotonic() - self._since

    @contextlib.contextmanager
    def paused(self, state: Any) -> Iterator[None]:
        """The time spent inside does not count. Waits for `state` first, so that the updates before are finished."""
        jax.block_until_ready(state)
        begin = time.monotonic()
        yield
        self._since += time.monotonic() - begin

    def rates(self) -> dict[str, float]:
        """Means over the updates since the last call (at least one); see docs/metrics.md."""
        seconds, work, updates = self.seconds, self._work, self._updates
        per_device = work.flops / seconds / len(self._devices)
        rates = {
            "step_seconds": seconds / updates,
            "tokens_per_second": self._tokens / seconds,
            "packing_efficiency": work.tokens / work.positions,
            "tflops_per_second": per_device / 1e12,
        }
        peak = PEAK.get(self._devices[0].device_kind)
        if peak is not None:
            rates["mfu"] = per_device / peak
        self._since, self._updates, self._tokens, self._work = self._since + seconds, 0, 0, Work()
        return rates | peak_memory(self._devices)


def peak_memory(devices: Sequence[Any]) -> dict[str, float]:
    """`peak_device_gb`: the most that any of this process's devices has held since the process began; empty where the backend
    does not report it (a CPU)."""
    mine = [device.memory_stats() for device in devices if device.process_index == jax.process_index()]
    peaks = [stats["peak_bytes_in_use"] for stats in mine if stats and "peak_bytes_in_use" in stats]
    return {"peak_device_gb": max(peaks) / 1e9} if peaks else {}


def parse_range(text: str | None) -> range:
    """'10:12' -> the updates that start when 10 and 11 are done, which the log calls 11 and 12; None -> none."""
    if text is None:
        return range(0)
    start, colon, stop = text.partition(":")
    if not (colon and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise InputError(f"profile='{text}' is not START:STOP: write two numbers of updates, the second one larger, as in 10:12.")
    return range(int(start), int(stop))


class Trace:
    """Owns the profiler while it traces `updates`. The trace is written to `folder`, for TensorBoard or Perfetto."""

    def __init__(self, updates: range, folder: Path):
        self._updates, self._folder, self._running = updates, folder, False
        self._written = contextlib.ExitStack()

    def turns_at(self, done: int) -> bool:
        """Whether the trace starts or stops after `done` updates; a run that is resumed within the range traces the rest."""
        return done == self._updates.stop if self._running else done in self._updates

    def turn(self) -> str:
        """Starts or stops the trace; returns a line for the user."""
        if self._running:
            self.close()
            return f"profile: trace written to {self._folder}"
        jax.profiler.start_trace(self._written.enter_context(written_locally(self._folder)))
        self._running = True
        return f"profile: tracing until {self._updates.stop} updates are done"

    def close(self) -> None:
        """Writes a trace that is still running, as far as it goes."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            self._written.close()
