"""Several processes are one run: the same numbers, one set of files, and an error that all of them hear."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import PATIENCE, ROOT, finish, free_port, start
from safetensors.numpy import load_file
from world import config_file, metrics

from mpo_jax.devices.interruption import CONTINUE
from mpo_jax.devices.processes import HostsConfig
from mpo_jax.devices.standstill import STANDSTILL
from mpo_jax.errors import InputError

EPOCHS, UPDATES = 3, 6


def training(world: Path, folder: Path, count: int, *overrides: str) -> list[subprocess.Popen]:
    return start([f"--config={config_file(world, folder)}", f"--config.epochs={EPOCHS}", *overrides], count)


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    ((code, _, err),) = finish(training(world, folder, 1))
    assert code == 0, err
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "settings"),
    [(2, ()), (4, ("--config.mesh.tensor=2", "--config.reference=cached"))],
    ids=["two, fsdp", "four, tensor, cached"],
)
def test_several_processes_are_one_run(world, tmp_path, alone, count, settings):
    ends = finish(training(world, tmp_path, count, *settings))
    assert [code for code, _, _ in ends] == [0] * count, ends
    ours, theirs = metrics(tmp_path / "run"), metrics(alone)
    assert [sorted(line) for line in ours] == [sorted(line) for line in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for name in a.keys() - {"packing_efficiency"}:  # fewer shards pack closer
            np.testing.assert_allclose(a[name], b[name], rtol=2e-4, atol=1e-5, err_msg=name)
    exported, expected = (load_file(run / "export" / "model.safetensors") for run in (tmp_path / "run", alone))
    assert exported.keys() == expected.keys()
    for name in exported:
        np.testing.assert_allclose(exported[name].astype(np.float32), expected[name].astype(np.float32), rtol=1e-2, atol=1e-3)
    first, *others = (out for _, out, _ in ends)
    assert "reward gap, nats per token" in first
    assert not any("reward gap" in out for out in others), "one process talks"
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"reward_gap.png", "loss.png", "checkpoints", "config.json"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_run_that_is_taken_away_goes_on_with_another_number_of_processes(world, tmp_path, alone, number):
    """A signal to the second of two processes, when there is a checkpoint."""
    settings = ("--config.eval_every=0", "--config.checkpoint.every=2", "--config.hosts.timeout=10")
    processes = training(world, tmp_path, 2, *settings)
    saved, until = tmp_path / "run" / "checkpoints" / "step_2", time.monotonic() + PATIENCE
    while not saved.exists() and time.monotonic() < until:
        time.sleep(0.02)
    processes[1].send_signal(number)
    begun = time.monotonic()
    ends = finish(processes)
    if number == signal.SIGTERM:
        assert [code for code, _, _ in ends] == [CONTINUE, CONTINUE], ends
        assert "saved; continue with --config.checkpoint.resume=auto" in ends[0][1]
    else:
        (code, _, err), _ = ends
        assert code not in (0, CONTINUE) and ("Connection" in err or "task:1" in err), ends  # the collective's words, or JAX's
        assert time.monotonic() - begun < 60, "ten seconds of silence, and not for ever"
    ((code, out, err),) = finish(training(world, tmp_path, 1, *settings[:2], "--config.checkpoint.resume=auto"))
    assert code == 0, err
    assert "checkpoint: continuing after update" in out
    ours, theirs = ([line for line in metrics(run) if "loss" in line][-1] for run in (tmp_path / "run", alone))
    assert ours["step"] == theirs["step"] == UPDATES
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=2e-4, atol=1e-5)


@pytest.mark.slow
def test_what_stops_the_first_process_stops_all(world, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old.txt").write_text("of another run")
    ends = finish(training(world, tmp_path, 2))
    assert [code for code, _, _ in ends] == [2, 2]
    assert all("is not empty" in err for _, _, err in ends)


SCRIPT = """
import sys
from mpo_jax.devices import processes
from mpo_jax.errors import InputError, one_sentence
index, case = int(sys.argv[2]), sys.argv[3]
with processes.joined(processes.HostsConfig(f"127.0.0.1:{sys.argv[1]}", 2, index, timeout=20)), one_sentence():
    assert processes.on_first(lambda: {"of the first": processes.first()}) == {"of the first": True}
    if case == "all stop" or (case == "one stops" and index == 0):
        raise InputError("nothing to train on")
    if case == "one fails" and index == 1:
        raise RuntimeError("a bug")
    if case == "one does not come" and index == 1:
        import time
        time.sleep(60)
    processes.wait("the meeting", 5 if case == "one does not come" else 600)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "first", "second", "words"),
    [
        ("all stop", 2, 2, "error: nothing to train on"),
        ("one stops", 2, None, "error: nothing to train on"),
        ("one fails", None, 1, "process 1 of 2 failed"),
        ("one does not come", 1, None, "'the meeting': not all 2 processes arrived within 5 s"),
    ],
)
def test_processes_end_together(case, first, second, words):
    """Exit codes; None is any but 0, the end that JAX makes of a process whose peer is gone."""
    port, begun = free_port(), time.monotonic()
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    commands = [[sys.executable, "-c", SCRIPT, str(port), str(i), case] for i in range(2)]
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    ends = finish([subprocess.Popen(command, env=env, **pipes) for command in commands])
    for (code, _, _), expected in zip(ends, (first, second), strict=True):
        assert code == expected if expected is not None else code, ends
    assert any(words in err for _, _, err in ends), ends
    assert time.monotonic() - begun < 100, "nobody waits out the whole of JAX's patience"


HANGING = """
import sys, time
from mpo_jax.devices import processes
from mpo_jax.devices.standstill import StandstillGuard
index = int(sys.argv[2])
with processes.joined(processes.HostsConfig(f"127.0.0.1:{sys.argv[1]}", 2, index)), StandstillGuard(4) as watch:
    for update in range(7, 9):
        watch.begins(update)
        with watch.paused():
            time.sleep(5)
        if index == 1 and update == 7:
            time.sleep(600)
    processes.wait("an update that needs both")
"""


@pytest.mark.slow
def test_a_process_that_hangs_is_named():
    port = free_port()
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen([sys.executable, "-c", HANGING, str(port), str(i)], env=env, **pipes) for i in range(2)]
    (code, _, err), (_, _, err_of_second) = finish(processes)
    assert code == STANDSTILL, err
    assert "No progress for 4 s after update 8: process 1 is at 7, the others at 8" in err
    assert "No progress" in err_of_second or "coordinat" in err_of_second.lower()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": 2}, "give hosts.coordinator and hosts.index too"),
        ({"coordinator": "h:1", "count": 2, "index": 2}, "hosts.index=2 must be below hosts.count=2"),
        ({"timeout": 1}, "hosts.timeout=1 is too short"),
        ({"patience": 1}, "hosts.patience=1 is too short"),
    ],
)
def test_a_wrong_setting_is_a_sentence(given, words):
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        HostsConfig(**given)
