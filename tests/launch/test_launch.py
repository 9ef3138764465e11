"""The scripts of launch/ take a slice through its life, against a stand-in for gcloud whose workers are folders of this machine.

Nothing is downloaded: `worker_tool` records what would be installed, and `trainer` counts instead of training.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpo_jax.training.config import parse

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SCRIPTS = ["create", "setup", "train", "watch", "fetch", "delete"]
TOKEN = "hf_a_secret"
SETTINGS = {"NAME": "mine", "PROJECT": "p", "ZONE": "z", "TOPOLOGY": "v5e:4x4", "STORAGE": "gs://bucket"}
TRAINER = ["--config=configs/quickstart.py", "--config.seed=3"]


class World:
    """A checkout with git, the stand-in's folder, and a person's environment."""

    def __init__(self, folder: Path):
        self.checkout, self.cloud = folder / "a checkout", folder / "cloud"
        self.processes: list[subprocess.Popen] = []
        for name in ("requests", "nodes", "buckets/bucket", "tools"):
            (self.cloud / name).mkdir(parents=True)
        for tool in ("uv", "sudo", "mountpoint", "gcsfuse", "mount", "mount.nfs", "hostname"):
            shutil.copy(HERE / "worker_tool", self.cloud / "tools" / tool)
        shutil.copy(HERE / "trainer", self.cloud / "trainer")
        (folder / "bin").mkdir()
        gcloud = folder / "bin" / "gcloud"
        gcloud.write_text((HERE / "gcloud").read_text().replace("/usr/bin/env python3", f"{sys.executable} -I", 1))
        gcloud.chmod(0o755)
        shutil.copytree(ROOT / "launch", self.checkout / "launch")
        for name in ("requirements.txt", "requirements-gcs.txt"):
            shutil.copy(ROOT / name, self.checkout)
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(self.checkout)]
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "as it is"]):
            subprocess.run([*git, *words], check=True)
        (self.checkout / "requirements.txt").open("a").write("# not committed yet\n")
        self.environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
            "STANDIN": str(self.cloud),
            "WORKERS": "2",
            "INTERVAL": "0.1",
            "GRACE": "0.1",
            "HF_TOKEN": TOKEN,
            **SETTINGS,
        }

    def start(self, script: str, *arguments: str, **environment: str) -> tuple[subprocess.Popen, Path, Path]:
        """The process, and the files of what it prints."""
        out, err = (self.cloud / f"{len(self.processes)}.{name}" for name in ("out", "err"))
        command = [self.checkout / "launch" / f"{script}.sh", *arguments]
        environment = self.environment | environment
        with out.open("w") as o, err.open("w") as e:
            process = subprocess.Popen(
                command, cwd=self.checkout.parent, env=environment, stdin=subprocess.DEVNULL, stdout=o, stderr=e
            )
        self.processes.append(process)
        return process, out, err

    def run(self, script: str, *arguments: str, code: int = 0, **environment: str) -> str:
        """What the script prints, both ways; the token is in none of it, and in no call of gcloud."""
        process, out, err = self.start(script, *arguments, **environment)
        return "".join(self.end(process, out, err, code))

    def end(self, process: subprocess.Popen, out: Path, err: Path, code: int = 0) -> tuple[str, str]:
        ended = process.wait(timeout=60)
        printed = out.read_text(), err.read_text()
        assert ended == code, printed
        assert TOKEN not in "".join(printed)
        self.check_token()
        return printed

    @property
    def recorded(self) -> list[dict]:
        path = self.cloud / "argv.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of each call of gcloud."""
        return [call["argv"] for call in self.recorded]

    def check_token(self) -> None:
        assert TOKEN not in json.dumps(self.calls)
        assert not any(call["token_in_environment"] for call in self.recorded)

    def home(self, worker: int) -> Path:
        return self.cloud / "nodes" / "mine" / str(worker)

    def trained(self, worker: int) -> list[list[str]]:
        """The trainer's arguments, start by start."""
        return [shlex.split(line) for line in (self.cloud / f"trained.{worker}").read_text().splitlines()]

    def end_trainers(self) -> None:
        for pid in self.cloud.glob("nodes/*/*/mpo/run/pid"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid.read_text()), signal.SIGKILL)  # the scripts make each trainer the leader of its group

    def end_trainer(self, worker: int, code: int | None) -> None:
        """With a code, or as a reboot ends it."""
        if code is None:
            os.killpg(int((self.home(worker) / "mpo/run/pid").read_text()), signal.SIGKILL)
        else:
            (self.cloud / f"end.{worker}").write_text(str(code))

    def preempt(self, state: str = "SUSPENDED") -> None:
        self.end_trainers()
        shutil.rmtree(self.cloud / "nodes" / "mine")
        (self.cloud / "requests" / "mine").write_text(state)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    for process in world.processes:
        process.kill()
    world.end_trainers()


def wait_for(condition, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def ready(world: World) -> None:
    world.run("create")
    world.run("setup")


def test_a_slice_from_nothing_to_the_export_with_a_preemption_and_an_interruption(world):
    ready(world)
    world.run("train", "--keep-logs", "--", *TRAINER)
    step = world.cloud / "buckets" / "bucket" / "mine" / "step"
    wait_for(lambda: step.exists() and step.read_text() == "3\n")
    watch, *files = world.start("watch", "--keep-logs", "--", *TRAINER)
    wait_for(lambda: "update 3" in files[0].read_text())
    world.preempt()
    out, err = world.end(watch, *files)
    # it says what happened, and shows every update of worker 0's log once a slice
    for sentence in ("the slice was preempted", "has saved: starting it again", "The run is done"):
        assert sentence in err
    assert [out.count(f"update {k}\n") for k in range(1, 8)] == [1] * 7
    # started three times on each worker: by hand, after the preemption, after code 42
    output = f"--config.output={step.parent}"
    for worker in range(2):
        assert world.trained(worker) == [[*TRAINER, output]] + [[*TRAINER, "--config.checkpoint.resume=auto", output]] * 2
    # logs of two slices, two workers each (the copies of the first slice came to an end with it)
    assert "exit code 0" in "".join(path.read_text() for path in world.cloud.glob("buckets/bucket/logs/mine/*.log"))
    world.run("fetch", "--to=home")
    assert (world.checkout.parent / "home" / "export" / "model.safetensors").read_text() == "weights\n"
    world.run("delete", "--yes")
    assert not list((world.cloud / "requests").iterdir())
    assert step.exists()


def test_the_trainer_reads_the_arguments_that_the_scripts_add():
    config = parse([*TRAINER, "--config.checkpoint.resume=auto", "--config.output=storage/mine"])
    assert (config.output, config.checkpoint.resume, config.seed) == ("storage/mine", "auto", 3)


def test_setup_brings_the_code_the_pins_the_storage_and_the_token(world):
    ready(world)
    for worker in range(2):
        home = world.home(worker)
        assert (home / "mpo/code/requirements.txt").read_text().endswith("# not committed yet\n")
        token = home / ".cache/huggingface/token"
        assert token.read_text() == TOKEN
        assert token.stat().st_mode & 0o777 == 0o600
    did = (world.cloud / "did").read_text()
    pin = next(line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("jax=="))
    assert did.count(f"-r code/requirements-gcs.txt {pin.replace('jax', 'jax[tpu]')}\n") == 2
    assert did.count("uv venv --quiet --python 3.11 venv\n") == 2
    assert did.count("--metadata-cache-ttl-secs=0 bucket ") == 2
    world.run("setup")  # again: nothing is made or mounted twice
    assert (world.cloud / "did").read_text().count("uv venv") == 2
    assert (world.cloud / "did").read_text().count("gcsfuse") == 2


def test_nfs_is_mounted_too(world):
    world.run("create")
    world.run("setup", "--storage=10.0.0.2:/share")
    assert (world.cloud / "did").read_text().count("sudo mount -t nfs 10.0.0.2:/share") == 2
    (world.cloud / "buckets/bucket/mine/export").mkdir(parents=True)
    world.run("fetch", "--storage=10.0.0.2:/share")
    assert (world.checkout.parent / "mine" / "export").is_dir()
    assert world.calls[-1][:4] == ["compute", "tpus", "tpu-vm", "scp"]


def test_a_bucket_that_the_trainer_writes_to_needs_no_mount(world):
    """The trainer here writes nothing at all: it gets the bucket's name as it was given."""
    world.run("create")
    nothing_mounted = {"STORAGE": "", "OUTPUT": "gs://bucket/runs/mine"}
    world.run("setup", **nothing_mounted)
    assert not (world.cloud / "did").exists() or "mount" not in (world.cloud / "did").read_text()
    world.run("train", "--", *TRAINER, "--config.fails=7", **nothing_mounted)
    wait_for((world.cloud / "trained.0").exists)
    assert world.trained(0)[0][-1] == "--config.output=gs://bucket/runs/mine"
    (world.cloud / "buckets/bucket/runs/mine/export").mkdir(parents=True)
    world.run("fetch", **nothing_mounted)
    assert (world.checkout.parent / "mine" / "export").is_dir()
    assert world.calls[-1][:2] == ["storage", "cp"]


def test_a_trainer_that_fails_stops_the_watch_with_a_sentence(world):
    ready(world)
    world.run("train", "--", *TRAINER, "--config.fails=7")
    said = world.run("watch", "--", *TRAINER, code=2)
    assert "it fails" in said
    assert said.splitlines()[-1].startswith("error: The trainer ended with exit code 7:")
    assert world.home(0).exists()


def train_until_it_hangs(world: World) -> None:
    world.run("train", "--", *TRAINER)
    logs = [world.home(worker) / "mpo/run/train.log" for worker in range(2)]
    wait_for(lambda: all("update 3" in log.read_text() for log in logs))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(None, "a worker was restarted"), (44, "came to a standstill: starting it again (1 of at most 3 times)")],
)
def test_what_ends_another_worker_resumes_all_when_all_have_ended(world, code, sentence):
    """JAX ends worker 0 a while after the other one, with a code that says nothing."""
    ready(world)
    train_until_it_hangs(world)
    world.end_trainer(1, code)
    process, out, err = world.start("watch", "--", *TRAINER)
    wait_for(lambda: "waiting for the other workers' trainers to end: t1v-n-1-w-1" in err.read_text())
    assert len(world.trained(1)) == 1
    world.end_trainer(0, 134)
    wait_for(lambda: len(world.trained(1)) == 2)
    said = "".join(world.end(process, out, err))
    assert sentence in said
    assert "The run is done" in said
    assert said.count("waiting for") == 1
    assert [worker[1][-2] for worker in map(world.trained, (0, 1))] == ["--config.checkpoint.resume=auto"] * 2


def test_a_trainer_that_always_stands_still_is_started_a_bounded_number_of_times(world):
    ready(world)
    world.run("train", "--", *TRAINER, "--config.fails=44")
    said = world.run("watch", "--retries=2", "--", *TRAINER, "--config.fails=44", code=2)
    assert said.splitlines()[-1].startswith("error: The trainer came to a standstill 3 times (exit code 44): ")
    assert [len(world.trained(worker)) for worker in (0, 1)] == [3, 3]


def test_codes_that_differ_are_told_by_worker(world):
    ready(world)
    train_until_it_hangs(world)
    world.end_trainer(0, 134)
    world.end_trainer(1, 1)
    said = world.run("watch", "--", *TRAINER, code=2)
    assert "ended with exit codes 134 (on the worker t1v-n-1-w-0), 1 (on the worker t1v-n-1-w-1): its log is above" in said


def test_a_slice_that_is_gone_before_its_request_says_so_is_asked_for_again(world):
    ready(world)
    world.run("train", "--", *TRAINER)
    world.preempt(state="ACTIVE")
    assert "the slice was preempted" in world.run("watch", "--", *TRAINER, "--config.fails=0")


def test_two_trainers_are_refused_and_so_is_setup_under_one(world):
    ready(world)
    world.run("train", "--", *TRAINER)
    assert "a trainer runs on" in world.run("train", "--", *TRAINER, code=1)
    assert "a trainer runs here" in world.run("setup", code=1)


def test_without_its_arguments_watch_resumes_nothing(world):
    ready(world)
    world.run("train", "--", *TRAINER)
    world.preempt()
    assert "give watch.sh the trainer's arguments" in world.run("watch", code=2)


@pytest.mark.parametrize(
    ("denial", "sentence"),
    [
        ("Quota limit 'TPUV5sPreemptible' has been exceeded.", "request quota for the Cloud TPU API"),
        ('There is no more capacity in the zone "z"', "no such slice is free in z"),
    ],
)
def test_what_google_denies_is_explained(world, denial, sentence):
    said = world.run("create", code=1, DENY=denial)
    assert denial in said
    assert sentence in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ([], "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot"),
        (["--tier=reserved", "--topology=v6e:2x4"], "--accelerator-type=v6e-8 --runtime-version=v2-alpha-tpuv6e --reserved"),
        (["--tier=on-demand", "--topology=v5p:2x2x2"], "--accelerator-type=v5p-16 --runtime-version=v2-alpha-tpuv5"),
        (["--tier=on-demand", "--accelerator-type=v4-8"], "--accelerator-type=v4-8 --runtime-version=tpu-ubuntu2204-base"),
        (["--runtime-version=other"], "--accelerator-type=v5litepod-16 --runtime-version=other --spot"),
    ],
)
def test_what_is_asked_for(world, flags, wanted):
    said = world.run("create", "--dry-run", *flags)
    assert wanted in said
    assert ("--spot" in said) == ("--spot" in wanted)


@pytest.mark.parametrize("script", [*SCRIPTS, "local"])
def test_a_dry_run_prints_commands_and_runs_none(world, script):
    arguments = ["--", *TRAINER, "--config.data.path=a file's"] if script in ("train", "watch", "local") else []
    said = world.run(script, "--dry-run", *arguments)
    assert not world.calls
    commands = [shlex.split(line) for line in said.splitlines() if not line.startswith("#")]
    assert commands
    assert all(words[0] in ("gcloud", "git", "mkdir", "make", ".venv/bin/python") for words in commands), said
    if script == "watch":
        assert [words[4] for words in commands if words[3:5] == ["queued-resources", words[4]]][1:3] == ["delete", "create"]
    if arguments:
        last = " ".join(commands[-1])
        assert "a file's" in (last if script == "local" else " ".join(shlex.split(last)))  # quoted once more for the worker


@pytest.mark.parametrize("script", [*SCRIPTS, "local"])
def test_help_names_the_usage(world, script):
    said = world.run(script, "--help")
    assert f"launch/{script}.sh" in said
    assert "--dry-run" in said
    assert "set -" not in said


@pytest.mark.parametrize(
    ("script", "environment", "sentence"),
    [
        *((script, {"NAME": ""}, "NAME is not set: write NAME=...") for script in SCRIPTS),
        *((script, {"ZONE": ""}, "ZONE is not set") for script in SCRIPTS if script != "fetch"),
        ("create", {"TOPOLOGY": ""}, "TOPOLOGY is not set"),
        ("create", {"TIER": "cheap"}, "TIER=cheap is not known"),
        ("create", {"TOPOLOGY": "v9:1x1"}, "RUNTIME_VERSION is not set"),
        ("create", {"TOPOLOGY": "2x4"}, "TOPOLOGY=2x4 is not known"),
        ("setup", {"STORAGE": ""}, "STORAGE is not set"),
        ("setup", {"STORAGE": "bucket"}, "STORAGE=bucket is not known"),
        ("setup", {"STORAGE": "gs://bucket/x"}, "names a folder in a bucket"),
        ("train", {"OUTPUT": "gs://bucket"}, "names no folder in a bucket"),
        ("train", {"OUTPUT": "s3://bucket/x"}, "names no folder in a bucket"),
        ("train", {}, "The trainer has no arguments"),
        ("local", {}, "The trainer has no arguments"),
        ("watch", {"RETRIES": "often"}, "RETRIES=often is not a number"),
        ("watch", {}, "There is no slice or request named mine"),
    ],
)
def test_a_missing_or_wrong_setting_gives_one_sentence(world, script, environment, sentence):
    said = world.run(script, code=2, **environment)
    assert said.startswith("error: ")
    assert sentence in said
    assert said.count("\n") == 1
    assert [call[3] for call in world.calls] in ([], ["list"])


@pytest.mark.parametrize("arguments", [["--nmae=x"], ["mine"], ["--no-wait"]])
def test_a_misspelt_flag_is_refused(world, arguments):
    assert "is not known to delete.sh" in world.run("delete", *arguments, code=2)


def test_the_output_folder_is_set_in_one_place(world):
    assert "is set by these scripts" in world.run("train", "--", "--config=c.py", "--config.output=x", code=2)


def test_here_a_run_goes_on_after_code_42_and_ends_with_any_other(world):
    (world.checkout / ".venv/bin").mkdir(parents=True)
    python = world.checkout / ".venv/bin/python"
    python.write_text('#!/bin/sh\necho "$@" >> trained\n[ "$(wc -l < trained)" -gt 2 ] && exit 9\nexit 42\n')
    python.chmod(0o755)
    (world.checkout / "Makefile").write_text(".venv/.runtime:\n\ttouch $@\n")
    world.run("local", "--extra=", "--", "--config=a b.py", code=9)
    first, *later = (world.checkout / "trained").read_text().splitlines()
    assert first == "-m mpo_jax.train --config=a b.py"
    assert later == [first + " --config.checkpoint.resume=auto"] * 2
