"""Lines are written once and whole, what weighed nothing is left out, and what an interrupted run left behind is dropped."""

import builtins
import json
import math

import pytest

from mpo_jax.errors import InputError
from mpo_jax.metrics import MetricsConfig, MetricWriter, keep_until, read_metrics, write_json


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


def test_keep_until_keeps_the_step_itself(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (0, 2, 4)))
    keep_until(path, 2)
    assert [line["step"] for line in read_metrics(path)] == [0, 2]
    keep_until(path, 0)
    assert path.read_text() == '{"step": 0}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_json_replaces_the_whole_file_and_keeps_every_script(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("x" * 1000)
    write_json(path, {"language": "বাংলা"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"language": "বাংলা"}
    assert "বাংলা" in path.read_text(encoding="utf-8")


def test_tensorboard_gets_the_same_numbers(tmp_path):
    write(tmp_path, [1, 2], tensorboard=True)
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"loss" in content
    assert b"gap/sw" not in content


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
