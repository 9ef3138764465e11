"""Rates are of the updates alone, peaks are never guessed, and a trace starts and stops where it was asked to."""

import time

import jax
import jax.numpy as jnp
import pytest
import tiny

from mpo_jax.errors import InputError
from mpo_jax.losses import Mpo
from mpo_jax.models.parameters import Frozen
from mpo_jax.scoring.objective import Task
from mpo_jax.telemetry.flops import Work
from mpo_jax.telemetry.throughput import PEAK, Meter, Trace, parse_range
from mpo_jax.training.optim import OptimConfig, make_optimizer
from mpo_jax.training.step import TrainStep, abstract_state
from mpo_jax.training.step_arguments import step_numbers


class Device:
    """Of a kind and with the memory statistics that are given."""

    process_index = 0

    def __init__(self, device_kind, stats=None):
        self.device_kind, self._stats = device_kind, stats

    def memory_stats(self):
        return self._stats


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def test_rates_by_hand(clock):
    meter = Meter([Device("TPU v5 lite", {"peak_bytes_in_use": n * 10**9}) for n in (3, 5)])
    for _ in range(2):
        meter.advance(1000, Work(197e12, 600, 800))
    clock(4.0)
    assert meter.rates() == pytest.approx(
        {
            "step_seconds": 2.0,
            "tokens_per_second": 500.0,
            "packing_efficiency": 0.75,
            "tflops_per_second": 2 * 197 / 4 / 2,  # of each of the two devices
            "mfu": 0.25,
            "peak_device_gb": 5.0,
        }
    )


def test_pauses_are_no_updates_time_and_a_line_starts_anew(clock):
    meter = Meter([Device("cpu")])
    for seconds in (1.0, 3.0):
        meter.advance(10, Work(1e12, 1, 1))
        clock(seconds)
        with meter.paused(jnp.zeros(())):
            clock(50.0)
        assert meter.seconds == seconds
        assert meter.rates()["step_seconds"] == seconds


def test_what_is_not_known_is_left_out(clock):
    meter = Meter([Device("Abacus", {})])
    meter.advance(1, Work(1, 1, 1))
    clock(1.0)
    assert not {"mfu", "peak_device_gb"} & meter.rates().keys()
    assert jax.devices()[0].device_kind not in PEAK


def test_a_range_of_updates():
    assert parse_range(None) == range(0)
    assert parse_range("10:12") == range(10, 12)


@pytest.mark.parametrize("text", ["", "10", "a:b", "5:5", "7:3", "-1:2", "1:2:3", "1.0:2"])
def test_a_range_that_is_none_is_a_sentence(text):
    with pytest.raises(InputError, match=r"START:STOP: write two numbers of updates"):
        parse_range(text)


def test_a_trace_covers_its_updates(tmp_path):
    trace, turns = Trace(range(2, 4), tmp_path), list[tuple[int, str]]()
    for done in range(6):
        if trace.turns_at(done):
            turns.append((done, trace.turn()))
    assert [done for done, _ in turns] == [2, 4]
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_a_run_that_continues_within_the_range_traces_the_rest(tmp_path):
    turns = Trace(range(2, 5), tmp_path).turns_at
    assert [done for done in range(7) if turns(done)] == [2, 3, 4]
    assert not Trace(range(0), tmp_path).turns_at(0)
    assert not list(tmp_path.iterdir())


def test_scopes_of_the_step_read_like_the_source():
    model, on = tiny.model(), tiny.mesh()
    optimizer = make_optimizer(OptimConfig(), 10)
    step = TrainStep(Task(model, Mpo(), tiny.LANGUAGES), optimizer, jnp.float32)
    state = abstract_state(model.abstract(on), optimizer, on)
    frozen, numbers = Frozen({}, model.abstract(on)), step_numbers(Mpo(), 1e-3)
    lowered = jax.jit(step).lower(state, frozen, tiny.micro(tiny.batch(), 1), numbers)
    text = lowered.compile().as_text()
    names = {part for line in text.split('op_name="')[1:] for part in line.split('"')[0].replace("(", "/").split("/")}
    names = {name.rstrip(")") for name in names}
    assert {"policy", "reference", "logp", "attention", "mlp", "pool", "update"} <= names
