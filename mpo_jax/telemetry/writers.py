"""Where do a run's metrics go? To a progress bar, `metrics.jsonl`, TensorBoard, and Weights & Biases on request."""

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mpo_jax.errors import InputError
from mpo_jax.files.json_files import replace_text, write_json
from mpo_jax.files.paths import Lines, in_bucket, naming, path_of, write


@dataclasses.dataclass
class MetricsConfig:
    """Metrics are written every `every` updates. `wandb`: a project of Weights & Biases, whose package must be installed; a
    resumed run continues there too."""

    every: int = 1
    tensorboard: bool = True
    wandb: str | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"metrics.every={self.every} must be at least 1.")


# Metric -> its label and format beside the progress bar.
SHOWN = {
    "loss": ("loss", "{:.4g}"),
    "step_seconds": ("s", "{:.3g}"),
    "tokens_per_second": ("tokens/s", "{:.0f}"),
    "packing_efficiency": ("packed", "{:.0%}"),
    "tflops_per_second": ("TFLOP/s", "{:.3g}"),
    "mfu": ("MFU", "{:.1%}"),
    "peak_device_gb": ("GB", "{:.3g}"),
}


class MetricWriter:
    """Owns the run's metric files. Lines after `start`, left by an interrupted run, are dropped, since this run writes them
    again."""

    def __init__(self, config: MetricsConfig, folder: Path, start: int, updates: int, run: dict[str, Any]):
        self._wandb = _wandb(config.wandb, folder, run, start > 0) if config.wandb else None
        path = folder / "metrics.jsonl"
        self._last: dict[str, float] = {}  # of the lines that are kept
        if path.exists():
            keep_until(path, start or -1)  # a run from scratch evaluates at step 0 again
            self._last = next(reversed(read_metrics(path)), {})
        self._jsonl = Lines(path)
        self._tensorboard = TensorBoard(folder / "tensorboard", start) if config.tensorboard else None
        self._bar = tqdm(total=updates, initial=start, unit="update", desc="train", mininterval=1.0)

    def advance(self) -> None:
        """One more update has started."""
        self._bar.update()

    def write(self, step: int, values: dict[str, float]) -> None:
        """`step` = updates done. A metric with weight 0 (of a language that was not in the batch) is NaN and left out. A finished
        run that is resumed measures its last state again, and that line is not written twice."""
        values = {name: float(value) for name, value in values.items() if not math.isnan(value)}
        if self._last.get("step") == step and self._last.keys() == {"step", *values}:
            return
        self._jsonl.write(json.dumps({"step": step, **values}))
        if self._tensorboard is not None:
            self._tensorboard.write(step, values)
        if self._wandb is not None:
            self._wandb.log(values, step=step)
        if "loss" in values:
            shown = {label: form.format(values[name]) for name, (label, form) in SHOWN.items() if name in values}
            self._bar.set_postfix(shown, refresh=False)

    def say(self, line: str) -> None:
        """Prints a line for the user, above the progress bar."""
        self._bar.write(line)

    def flush(self) -> None:
        """Returns when the lines so far would survive this process."""
        self._jsonl.flush()

    def close(self) -> None:
        self._bar.close()
        self._jsonl.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


class Silent:
    """The writer of a process that writes nothing."""

    def advance(self) -> None:
        pass

    def write(self, step: int, values: dict[str, float]) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def keep_until(path: Path, step: int) -> None:
    """Drops the lines of `metrics.jsonl`, or of another file whose lines have a step, after `step`, and a last line that an
    interruption cut short."""
    lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: U+2028 may stand within a text
    kept = [line for line in lines if _is_until(line, step)]
    replace_text(path, "".join(line + "\n" for line in kept))


def _is_until(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except json.JSONDecodeError:
        return False


def read_metrics(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class TensorBoard:
    """Owns a TensorBoard file, flushed every `EVERY` seconds and at the end. It is written in the calling thread: tensorboardX's
    own writer has a thread that ends at the first error, after which the run would wait for it for ever."""

    EVERY = 120.0

    def __init__(self, folder: Path, start: int):
        from tensorboardX import event_file_writer, record_writer
        from tensorboardX.proto import event_pb2

        if in_bucket(folder):
            record_writer.register_writer_factory("gs", _Events)  # tensorboardX's own keeps writing when the program ends
        else:
            folder.mkdir(exist_ok=True)
        self._folder, self._next = folder, 0.0
        self._proto: Any = event_pb2  # protobuf makes its names at run time
        with naming(folder):
            self._file = event_file_writer.EventsWriter(str(folder / "events"))
        if start:  # hides what an interrupted run wrote after it
            self._write(step=start + 1, session_log={"status": "START"})

    def write(self, step: int, values: dict[str, float]) -> None:
        self._write(step=step, summary={"value": [{"tag": name, "simple_value": x} for name, x in values.items()]})

    def _write(self, **event: Any) -> None:
        with naming(self._folder):
            self._file.write_event(self._proto.Event(wall_time=time.time(), **event))
            if time.monotonic() >= self._next:
                self._file.flush()
                self._next = time.monotonic() + self.EVERY

    def close(self) -> None:
        with naming(self._folder):
            self._file.close()


class _Events:
    """The TensorBoard file in a bucket, rewritten at each flush."""

    @classmethod
    def open(cls, path: str) -> "_Events":
        return cls(path)

    @staticmethod
    def directory_check(path: str) -> None:
        """A bucket needs no folders."""

    def __init__(self, path: str):
        self._path, self._events = path_of(path), bytearray()

    def write(self, event: bytes) -> None:
        self._events += event

    def flush(self) -> None:
        write(self._path, bytes(self._events))

    def close(self) -> None:
        self.flush()


def _wandb(project: str, folder: Path, run: dict[str, Any], continued: bool) -> Any:
    """A run of the W&B project: a new one, or for a resumed run the one whose name is kept in `folder`."""
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"metrics.wandb='{project}' needs the package wandb: run `pip install wandb`, or leave the setting out."
        ) from error
    kept = folder / "wandb.json"
    known = json.loads(kept.read_text(encoding="utf-8"))["id"] if continued and kept.exists() else None
    # W&B keeps the numbers itself, and a local copy where possible. It skips steps that it already has, and settings may have
    # changed since (checkpoint.resume).
    copy = None if in_bucket(folder) else str(folder)
    opened = wandb.init(project=project, dir=copy, config=run, id=known, resume="allow", allow_val_change=True)
    write_json(kept, {"id": opened.id})
    return opened
