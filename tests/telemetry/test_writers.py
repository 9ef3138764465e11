"""Lines are written once and whole, what weighed nothing is left out, and what an interrupted run left behind is dropped."""

import builtins
import json
import math
import os
import struct
import sys
import types
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from mpo_jax.errors import InputError
from mpo_jax.telemetry.writers import MetricsConfig, MetricWriter, TensorBoard, keep_until, read_metrics


def writer(folder, *, start=0, **settings):
    return MetricWriter(MetricsConfig(**{"tensorboard": False} | settings), folder, start=start, updates=10, run={"seed": 0})


def write(folder, steps, **settings):
    opened = writer(folder, **settings)
    for step in steps:
        opened.write(step, {"loss": 1.0 / step, "gap/sw": math.nan, "tokens_per_second": 10})
        opened.advance()
    opened.close()
    return read_metrics(folder / "metrics.jsonl")


def test_a_line_an_update_without_what_weighed_nothing(tmp_path):
    assert write(tmp_path, [1, 2]) == [
        {"step": 1, "loss": 1.0, "tokens_per_second": 10.0},
        {"step": 2, "loss": 0.5, "tokens_per_second": 10.0},
    ]


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    opened = writer(tmp_path)
    opened.write(1, {"loss": 1.0})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}]
    opened.close()


def test_a_continued_run_drops_what_comes_after_its_start(tmp_path):
    write(tmp_path, range(1, 6))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    lines = write(tmp_path, [4, 5], start=3)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_a_line_may_hold_what_some_call_the_end_of_a_line(tmp_path):
    path = tmp_path / "lines.jsonl"
    text = "".join(json.dumps({"step": step, "text": "a\u2028b\x85c"}, ensure_ascii=False) + "\n" for step in (1, 2))
    path.write_text(text, encoding="utf-8")
    keep_until(path, 2)
    assert path.read_text(encoding="utf-8") == text
    keep_until(path, 1)
    assert path.read_text(encoding="utf-8") == text[: len(text) // 2]


def test_a_run_from_the_start_drops_every_line_that_is_there(tmp_path):
    """Also that of step 0: it evaluates its start again."""
    for _ in range(2):
        opened = writer(tmp_path)
        opened.write(0, {"eval_loss": 1.0})
        opened.write(1, {"loss": 1.0})
        opened.close()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1]


def test_the_evaluation_of_the_last_state_is_written_once(tmp_path):
    """The run may have been killed after it had saved that state and before this line, or later."""
    for _ in range(3):
        opened = writer(tmp_path, start=10)
        opened.write(10, {"eval_loss": 1.0, "eval_gap/sw": math.nan})
        opened.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 10, "eval_loss": 1.0}]
    opened = writer(tmp_path, start=9)
    opened.write(10, {"eval_loss": 2.0})
    opened.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 10, "eval_loss": 2.0}], "after the start it is another state"


def test_keep_until_keeps_the_step_itself(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (0, 2, 4)))
    keep_until(path, 2)
    assert [line["step"] for line in read_metrics(path)] == [0, 2]
    keep_until(path, 0)
    assert path.read_text() == '{"step": 0}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    write(tmp_path, [1, 2], tensorboard=True, start=1)
    (file,) = (tmp_path / "tensorboard").iterdir()
    _, purge, *events = records(file.read_bytes())
    assert (purge.step, purge.session_log.status) == (2, SessionLog.START), "what was written after update 1 is hidden"
    shown = [{"step": event.step} | {value.tag: value.simple_value for value in event.summary.value} for event in events]
    assert len(shown) == 2 and shown == [pytest.approx(line) for line in read_metrics(tmp_path / "metrics.jsonl")]


def records(content: bytes) -> list[Event]:
    """Each is a length, its checksum, an event, its checksum."""
    found = []
    while content:
        (size,) = struct.unpack("Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    return found


def test_a_full_disk_is_an_error_of_tensorboard_and_nobody_waits(tmp_path, monkeypatch):
    """`/dev/full` takes nothing. There are more lines than a queue would hold."""
    monkeypatch.setattr(TensorBoard, "EVERY", 0.0)
    full = writer(tmp_path, tensorboard=True)
    full.write(1, {"loss": 1.0})
    assert full._tensorboard is not None
    with Path("/dev/full").open("wb") as nothing:
        os.dup2(nothing.fileno(), full._tensorboard._file._py_recordio_writer._writer.fileno())
    for step in range(100):
        with pytest.raises(OSError, match=r"No space left on device: '.*/tensorboard'"):
            full.write(step, {"loss": 1.0})
    with pytest.raises(OSError, match=r"No space left on device: '.*/tensorboard'"):
        full.close()


def test_a_continued_run_is_continued_at_weights_and_biases(tmp_path, monkeypatch):
    """A stand-in names its runs as they come and keeps what they log. A run from the start is another run."""
    logged: dict[str, list[int]] = {}

    def init(*, project, dir, config, id, resume, allow_val_change):
        assert (project, dir, config, resume, allow_val_change) == ("safety", str(tmp_path), {"seed": 0}, "allow", True)
        steps = logged.setdefault(id := id or f"run{len(logged)}", [])
        return types.SimpleNamespace(id=id, log=lambda values, step: steps.append(step), finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for start, steps in ((0, [1, 2, 3]), (2, [3, 4]), (4, [5]), (0, [1])):
        write(tmp_path, steps, start=start, wandb="safety")
    assert logged == {"run0": [1, 2, 3, 3, 4, 5], "run1": [1]}
    write(tmp_path, [2], start=1, wandb="safety")
    assert logged["run1"] == [1, 2]


def test_a_missing_wandb_is_a_sentence(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args):
        if name == "wandb":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"metrics\.wandb='safety' needs the package wandb: run `pip install wandb`"):
        writer(tmp_path, wandb="safety")


def test_a_line_every_zero_updates_means_nothing():
    with pytest.raises(InputError, match=r"metrics\.every=0 must be at least 1"):
        MetricsConfig(every=0)
