"""Processes that were given different things hear of it before they wait for each other."""

import contextlib
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from processes import ROOT, finish, free_port
from world import config_file

from mpo_jax.devices import processes
from mpo_jax.errors import InputError
from mpo_jax.training.assemble import assemble
from mpo_jax.training.config import parse


def told(monkeypatch, *others):
    """This process is the first of several; what the others tell."""
    monkeypatch.setattr(jax, "process_count", lambda: 1 + len(others))
    sent = []
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda x: sent.append(x) or np.stack([x] * (1 + len(others))))
    for parts in others:
        processes.agree(parts)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda x: np.stack([x, *sent]))


def test_processes_that_agree_go_on(monkeypatch):
    parts = {"rows": [1, 2], "settings": {"a": 1, "b": 2}}
    processes.agree(parts)
    told(monkeypatch, {"rows": [1, 2], "settings": {"b": 2, "a": 1}})
    processes.agree(parts)


def test_a_sentence_says_who_differs_and_in_what(monkeypatch):
    told(monkeypatch, {"rows": [1, 2], "settings": 1}, {"rows": [2, 1], "settings": 2}, {"rows": [1, 2], "settings": 2})
    with pytest.raises(InputError, match=r"process 2 has other rows and settings; process 3 has other settings than process 0"):
        processes.agree({"rows": [1, 2], "settings": 1})


SCRIPT = """
import sys
from mpo_jax.devices import processes
from mpo_jax.errors import one_sentence
index = int(sys.argv[2])
with processes.joined(processes.HostsConfig(f"127.0.0.1:{sys.argv[1]}", 2, index, timeout=20)), one_sentence():
    processes.agree({"rows": "the same", "model files": "the same"})
    processes.agree({"rows": "the same", "model files": f"those of {index}"})
"""


@pytest.mark.slow
def test_two_processes_hear_the_same_sentence():
    port, env = free_port(), os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    commands = [[sys.executable, "-c", SCRIPT, str(port), str(i)] for i in range(2)]
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    ends = finish([subprocess.Popen(command, env=env, **pipes) for command in commands])
    assert [code for code, _, _ in ends] == [2, 2], ends
    assert all("process 1 has other model files than process 0" in err for _, _, err in ends)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("loss.beta=2.0", "settings"),
        ("microbatches=2", "settings"),
        ("data.max_length=900", "settings"),
        ("output=/elsewhere", None),
        ("hosts.patience=99", None),
    ],
)
def test_settings_that_make_another_computation_must_agree(world, tmp_path, monkeypatch, override, said):
    """What each process tells of itself, without several of them."""
    told, path = [], config_file(world, tmp_path)
    monkeypatch.setattr(processes, "agree", told.append)
    for overrides in ([], [f"--config.{override}"]):
        with contextlib.suppress(InputError):
            assemble(parse([f"--config={path}", *overrides]))
    ours, theirs = told
    assert [name for name in ours if ours[name] != theirs[name]] == ([] if said is None else [said])
    assert set(ours) == {"rows", "model files", "settings"}
