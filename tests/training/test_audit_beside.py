"""The audit that a run makes beside its training."""

import dataclasses
import json
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from world import command, config_file

from mpo_jax import train
from mpo_jax.checkpoints.export_folder import is_whole
from mpo_jax.data import dataset
from mpo_jax.data.audit import Audit
from mpo_jax.devices import processes
from mpo_jax.errors import InputError
from mpo_jax.training import loop
from mpo_jax.training.audit_beside import AuditBeside

PATIENCE = 60  # seconds, after which a test that waits has failed
CLEAN = Audit(*[4] + [0] * (len(dataclasses.fields(Audit)) - 1))
FOUND = {"ko": CLEAN, "sw": dataclasses.replace(CLEAN, duplicates=2)}
WARNING = "warning: sw: 2 of 4 rows repeat an earlier one (audit.json; docs/data.md)"
NOT_YET = "the audit of the data is not done yet: waiting for it"


def test_what_is_found_is_written_and_said_once_and_nothing_before(tmp_path):
    done, said = threading.Event(), []

    def findings(given_up):
        assert done.wait(PATIENCE)
        return FOUND

    with AuditBeside(SimpleNamespace(findings=findings), tmp_path) as audit:
        audit.publish(said.append)
        assert not said and not list(tmp_path.iterdir())
        threading.Timer(0.1, done.set).start()
        audit.publish(said.append, wait=True)
        assert said == [NOT_YET, WARNING]
        assert json.loads((tmp_path / "audit.json").read_text())["sw"]["duplicates"] == 2
        (tmp_path / "audit.json").unlink()
        audit.publish(said.append, wait=True)
    assert len(said) == 2 and not list(tmp_path.iterdir())


def test_a_failure_is_said_once_and_raised_at_the_end(tmp_path):
    def findings(given_up):
        raise InputError("the disk is full.")

    said, tries = [], iter(range(1000 * PATIENCE))
    with AuditBeside(SimpleNamespace(findings=findings), tmp_path) as audit:
        while not said and next(tries, None) is not None:
            audit.publish(said.append)
            time.sleep(0.001)
        audit.publish(said.append)
        assert said == [
            "warning: the audit of the data has failed, and the run will end with this error after training: the disk is full."
        ]
        with pytest.raises(InputError, match="the disk is full"):
            audit.publish(said.append, wait=True)
    assert len(said) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("first", [True, False], ids=["the first", "another"])
def test_only_the_first_process_audits_and_the_others_wait_for_it(tmp_path, monkeypatch, first):
    """A process that ends long before another would end that one too."""
    monkeypatch.setattr(processes, "first", lambda: first)
    monkeypatch.setattr(processes, "wait", lambda *_: waited.append([path.name for path in tmp_path.iterdir()]))
    asked, said, waited = [], [], []
    with AuditBeside(SimpleNamespace(findings=lambda given_up: asked.append(1) or FOUND), tmp_path) as audit:
        audit.publish(said.append)
        assert not waited
        audit.publish(said.append, wait=True)
    assert waited == [["audit.json"] if first else []]
    assert len(asked) == len(set(said) - {NOT_YET}) == first


def test_nothing_of_a_run_waits_for_its_audit_but_its_end(world, tmp_path, monkeypatch, capsys):
    """The audit is there only after the export."""
    export, exported = loop.export, threading.Event()
    run = tmp_path / "run"

    def late(*args):
        assert exported.wait(PATIENCE)
        time.sleep(0.2)  # until the run waits
        return FOUND

    def exports(*args):
        export(*args)
        assert not (run / "audit.json").exists()
        exported.set()

    monkeypatch.setattr(dataset, "audit", late)
    monkeypatch.setattr(loop, "export", exports)
    command(world, tmp_path)
    assert json.loads((run / "audit.json").read_text()) == {name: dataclasses.asdict(counts) for name, counts in FOUND.items()}
    printed = capsys.readouterr().out
    assert printed.index(NOT_YET) < printed.index(WARNING) < printed.index("all of it on one page")


def test_an_audit_that_fails_fails_the_run_when_the_model_is_safe(world, whole, tmp_path, monkeypatch):
    """The run that continues has only the audit to make."""

    def fails(*args):
        raise InputError("rows.jsonl has changed while it was read: start again.")

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "audit", fails)
        with pytest.raises(InputError, match="has changed while it was read"):
            command(world, tmp_path)
    assert is_whole(run / "export") and not (run / "reward_gap.json").exists()
    command(world, tmp_path, "--config.checkpoint.resume=auto")
    for name in ("audit.json", "reward_gap.json"):
        assert (run / name).read_text() == (whole / name).read_text()


def test_a_run_that_is_interrupted_gives_its_audit_up_and_the_next_one_makes_it(world, whole, tmp_path, monkeypatch):
    """SIGTERM in the second update."""
    given, place, placed = [], loop.batch_to_mesh, []

    def endless(rows, examples, given_up):
        end = time.monotonic() + PATIENCE
        while not given_up() and time.monotonic() < end:
            time.sleep(0.01)
        given.append(given_up())
        return count(rows, examples, given_up)

    def interrupted(batch, mesh):
        placed.append(batch)
        if len(placed) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return place(batch, mesh)

    count = dataset.audit
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "audit", endless)
        patch.setattr(loop, "batch_to_mesh", interrupted)
        with pytest.raises(SystemExit) as end:
            train.main([f"--config={config_file(world, tmp_path)}"])
    assert (end.value.code, given) == (42, [True])
    assert not (tmp_path / "run" / "audit.json").exists()
    command(world, tmp_path, "--config.checkpoint.resume=auto")
    assert (tmp_path / "run" / "audit.json").read_text() == (whole / "audit.json").read_text()
