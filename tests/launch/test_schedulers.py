"""A job of Slurm's and a JobSet of Kubernetes' train like one process, and go on where they were interrupted.

The schedulers are stand-ins on this machine: `srun` and `scontrol` beside this file, and `kubelet` below.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import xla_flags
import yaml
from google_metadata import metadata
from processes import ROOT, finish, free_port
from world import metrics

from mpo_jax.devices.interruption import CONTINUE, NOTHING_KEPT
from mpo_jax.devices.standstill import STANDSTILL
from mpo_jax.errors import InputError
from mpo_jax.training.config import parse

HERE = Path(__file__).resolve().parent
SCRIPT, MANIFEST = ROOT / "launch" / "slurm.sbatch", ROOT / "launch" / "gke.yaml"
RESUME = "--config.checkpoint.resume=auto"
PATIENCE = 120  # seconds


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory) -> list[str]:
    """The quickstart's arguments with few of its rows: six updates, of which none is saved by itself."""
    folder = tmp_path_factory.mktemp("rows")
    for name, count in {"train": 48, "heldout": 6, "texts_heldout": 2}.items():
        lines = (ROOT / "quickstart" / "data" / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[:count]))
    paths = {"path": "train", "eval_path": "heldout", "texts": "texts_heldout"}
    few = ["epochs=1", "eval_every=0", "samples=None", "metrics.every=1", "metrics.tensorboard=False", "checkpoint.every=100"]
    return [
        "--config=configs/quickstart.py",
        *(f"--config.data.{key}={folder / name}.jsonl" for key, name in paths.items()),
        *(f"--config.{setting}" for setting in (*few, "compilation_cache=")),
    ]


def environment(devices: int) -> dict[str, str]:
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags.devices(devices)}


@pytest.fixture(scope="module")
def alone(quickstart, tmp_path_factory) -> list[dict]:
    """The metrics of one process with two devices."""
    folder = tmp_path_factory.mktemp("alone")
    command = [sys.executable, "-m", "mpo_jax.train", *quickstart, f"--config.output={folder}"]
    subprocess.run(command, env=environment(2), cwd=ROOT, check=True, capture_output=True)
    return metrics(folder)


def check_metrics(run: Path, alone: list[dict]) -> None:
    ours = metrics(run)
    assert [sorted(line) for line in ours] == [sorted(line) for line in alone]
    for a, b in zip(ours, alone, strict=True):
        for name in a.keys() - {"packing_efficiency"}:  # fewer shards pack closer
            np.testing.assert_allclose(a[name], b[name], rtol=2e-4, atol=1e-5, err_msg=name)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def begun(run: Path) -> bool:
    """Whether an update has been written down."""
    return (run / "metrics.jsonl").exists() and '"grad_norm"' in (run / "metrics.jsonl").read_text()


class Slurm:
    """A queue with one job, of two tasks, whose script is ours."""

    def __init__(self, folder: Path, python: str = sys.executable):
        self.folder = folder
        tools = folder / "tools"
        tools.mkdir()
        for name in ("srun", "scontrol"):
            shutil.copy(HERE / name, tools)
        self.environment = environment(1) | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "STANDIN": str(folder),
            "PYTHON": python,
            "SLURM_JOB_ID": "77",
            "SLURM_NTASKS": "2",
            "SLURM_CPUS_PER_TASK": "3",
            "JAX_COORDINATOR_PORT": str(free_port()),
        }

    def start(self, *arguments: str, restarts: int = 0) -> subprocess.Popen:
        env = self.environment | ({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {})
        return subprocess.Popen([SCRIPT, *arguments], env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments: str, restarts: int = 0) -> tuple[int, str]:
        process = self.start(*arguments, restarts=restarts)
        _, err = process.communicate(timeout=PATIENCE)
        return process.returncode, err

    def signal(self, script: subprocess.Popen) -> None:
        """SIGTERM to every task, by `--signal` or before a preemption, which also reaches the script."""
        for pid in (*map(int, (self.folder / "pids").read_text().split()), script.pid):
            os.kill(pid, signal.SIGTERM)

    @property
    def told(self) -> str:
        """The tasks' output, and what scontrol was told."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("task.*")))

    @property
    def controlled(self) -> list[str]:
        path = self.folder / "controlled"
        return path.read_text().splitlines() if path.exists() else []


@pytest.mark.slow
def test_a_slurm_job_goes_back_to_the_queue_and_on_to_the_numbers_of_one_process(tmp_path, quickstart, alone):
    slurm, run = Slurm(tmp_path), tmp_path / "run"
    arguments = [*quickstart, f"--config.output={run}"]
    script = slurm.start(*arguments)
    wait_for(lambda: begun(run))
    slurm.signal(script)
    _, err = script.communicate(timeout=PATIENCE)
    assert script.returncode == CONTINUE, slurm.told
    assert "have saved: back to the queue" in err
    assert slurm.controlled == ["requeue 77"]
    assert "Slurm: process 1 of 2, coordinator localhost:" in slurm.told
    assert len(metrics(run)) < len(alone), "it was interrupted"
    code, err = slurm.run(*arguments, restarts=1)
    assert code == 0, slurm.told + err
    assert "checkpoint: continuing after update" in slurm.told
    assert len(slurm.controlled) == 1
    check_metrics(run, alone)


@pytest.fixture
def trainer(tmp_path) -> str:
    """An interpreter that keeps its arguments and ends with the code in the first of them."""
    path = tmp_path / "python"
    path.write_text(
        '#!/bin/sh\n[ "$SLURM_PROCID" = 1 ] && echo "$SRUN_CPUS_PER_TASK $*" >> "$STANDIN/called"\nexit "${3#--code=}"\n'
    )
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("code", [0, 1, 2, CONTINUE, NOTHING_KEPT, STANDSTILL])
def test_a_slurm_job_is_requeued_after_one_code_alone(tmp_path, trainer, code):
    slurm = Slurm(tmp_path, trainer)
    assert slurm.run(f"--code={code}")[0] == code
    assert slurm.controlled == (["requeue 77"] if code == CONTINUE else [])


def test_a_requeued_slurm_job_resumes_with_the_same_arguments(tmp_path, trainer):
    slurm = Slurm(tmp_path, trainer)
    for restarts in (0, 1):
        slurm.run("--code=0", "--config.output=a folder", restarts=restarts)
    first, second = (tmp_path / "called").read_text().splitlines()
    assert first == "3 -m mpo_jax.train --code=0 --config.output=a folder"
    assert second == f"{first} {RESUME}"


def test_a_slurm_job_without_arguments_is_a_sentence(tmp_path):
    code, err = Slurm(tmp_path).run()
    assert code == 2
    assert err.startswith("error: The trainer has no arguments: ")


def test_what_the_slurm_job_asks_for():
    """Options count only before the first command."""
    head = SCRIPT.read_text().partition("\nset ")[0]
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?([^ \n]*)", head, re.MULTILINE))
    assert asked.keys() >= {"nodes", "ntasks-per-node", "gpus-per-node", "time", "requeue"}
    assert asked["open-mode"] == "append", "the log of a job that comes back is kept"
    assert asked["signal"] == "TERM@600", "to the trainers: with B: it would go to the script alone"
    assert SCRIPT.read_text().count("#SBATCH") == len(asked)


@pytest.fixture(scope="module")
def manifest() -> dict:
    return yaml.safe_load(MANIFEST.read_text())


def strict(schema: dict) -> dict:
    """With every property known, as `kubectl apply` has it."""
    closed = {key: strict(value) if isinstance(value, dict) else value for key, value in schema.items()}
    if "properties" in schema:
        closed["properties"] = {name: strict(of) for name, of in schema["properties"].items()}
        closed["additionalProperties"] = False
    return closed


def test_the_manifest_is_a_job_set(manifest):
    schema = strict(json.loads((HERE / "jobset_schema.json").read_text()))
    jsonschema.validate(manifest, schema)
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    for old, new in (
        ("maxRestarts", "maxRestart"),
        ("FailJobSet", "Fail"),
        ("parallelism: 4", "parallelism: four"),
        ("image:", "img:"),
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(MANIFEST.read_text().replace(old, new)), schema)


def job_of(manifest: dict) -> dict:
    (replicated,) = manifest["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    return replicated["template"]["spec"]


def test_the_manifest_asks_for_one_slice(manifest):
    """As many pods as the topology has machines, and the arguments are the trainer's."""
    job = job_of(manifest)
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    chips = np.prod([int(side) for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")])
    assert job["parallelism"] == job["completions"] == chips / container["resources"]["limits"]["google.com/tpu"]
    assert container["command"] == ["python", "-m", "mpo_jax.train"]
    config = parse(container["args"])
    assert (config.output, config.checkpoint.resume, config.hosts.cluster) == ("gs://BUCKET/mine", "auto", "auto")


def decision(manifest: dict, code: int, conditions: tuple[str, ...] = ()) -> str:
    """What becomes of the JobSet when a pod has failed: Kubernetes' rules for the job, with its message, then JobSet's rules."""
    job = job_of(manifest)
    assert job["backoffLimit"] == 0
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for index, rule in enumerate(job["podFailurePolicy"]["rules"]):
        codes, on = rule.get("onExitCodes"), rule.get("onPodConditions", [])
        assert rule["action"] == "FailJob"
        if codes is not None and codes["operator"] == "In" and code in codes["values"]:
            name = codes["containerName"]
            found = f"Container {name} for pod a/b failed with exit code {code} matching FailJob rule at index {index}"
        elif any(condition["type"] in conditions and condition["status"] == "True" for condition in on):
            found = f"Pod a/b has condition {on[0]['type']} matching FailJob rule at index {index}"
        else:
            continue
        reason, message = "PodFailurePolicy", found
        break
    for rule in manifest["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(pattern, message) for pattern in patterns):
            return rule["action"]
    return "RestartJobSet"  # as often as maxRestarts says


@pytest.mark.parametrize(
    ("code", "conditions", "action"),
    [
        (CONTINUE, (), "RestartJobSetAndIgnoreMaxRestarts"),
        (CONTINUE, ("DisruptionTarget",), "RestartJobSetAndIgnoreMaxRestarts"),
        (137, ("DisruptionTarget",), "RestartJobSetAndIgnoreMaxRestarts"),
        (2, (), "FailJobSet"),
        (NOTHING_KEPT, (), "FailJobSet"),
        (STANDSTILL, (), "RestartJobSet"),
        (1, (), "RestartJobSet"),
        (134, (), "RestartJobSet"),
    ],
)
def test_what_becomes_of_the_job_set_when_a_pod_ends(manifest, code, conditions, action):
    assert decision(manifest, code, conditions) == action


@contextlib.contextmanager
def kubelet(manifest: dict, arguments: list[str], count: int, folder: Path):
    """`count` pods of the JobSet as processes, with the variables that Kubernetes and GKE set, and its container's command with
    other paths. They compute on this machine's CPU, so what tells JAX of a TPU has to be named."""
    job, (container,) = job_of(manifest), job_of(manifest)["template"]["spec"]["containers"]
    own = ("--config=", "--config.data.path=", "--config.output=")
    kept = [argument for argument in container["args"] if not argument.startswith(own)]
    command = [sys.executable, *container["command"][1:], *arguments, *kept, "--config.hosts.cluster=gke"]
    common = environment(1) | {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "TPU_WORKER_HOSTNAMES": ",".join(["localhost"] * count),
        "JAX_COORDINATOR_PORT": str(free_port()),
    }
    assert job["completionMode"] == "Indexed"
    with metadata({"tpu-env": ""}) as address:
        pods = [
            subprocess.Popen(
                command,
                env=common | {"JOB_COMPLETION_INDEX": str(i), "TPU_WORKER_ID": str(i), "GCE_METADATA_IP": address},
                cwd=ROOT,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for i in range(count)
        ]
        yield pods
        for pod in pods:
            pod.kill()


@pytest.mark.slow
def test_a_job_set_starts_again_and_goes_on_to_the_numbers_of_one_process(tmp_path, quickstart, alone, manifest):
    run = tmp_path / "run"
    arguments = [*quickstart, f"--config.output={run}"]
    with kubelet(manifest, arguments, 2, tmp_path) as pods:
        wait_for(lambda: begun(run))
        pods[1].terminate()  # as when its node is drained
        ends = finish(pods)
    assert [decision(manifest, code) for code, _, _ in ends] == ["RestartJobSetAndIgnoreMaxRestarts"] * 2, ends
    assert "GKE: process 1 of 2, coordinator localhost:" in ends[1][2]
    assert len(metrics(run)) < len(alone), "it was interrupted"
    with kubelet(manifest, arguments, 2, tmp_path) as pods:
        ends = finish(pods)
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "checkpoint: continuing after update" in ends[0][1]
    check_metrics(run, alone)


def test_a_misspelt_setting_of_the_manifest_is_refused(manifest):
    (container,) = job_of(manifest)["template"]["spec"]["containers"]
    with pytest.raises(InputError, match="did you mean 'resume'"):
        parse([argument.replace("resume", "resum") for argument in container["args"]])
