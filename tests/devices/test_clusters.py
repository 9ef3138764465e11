"""What each launcher sets decides which processes meet, and where; a process that none of them started waits for nobody."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from google_metadata import metadata
from jax._src import clusters as jax_clusters
from processes import ROOT, finish, free_port

from mpo_jax.devices import clusters, processes
from mpo_jax.devices.processes import HostsConfig
from mpo_jax.errors import InputError

SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "node[001,003]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
OMPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
OMPI_4 = OMPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
GKE = {"TPU_WORKER_HOSTNAMES": "a-0.a,a-1.a,a-2.a,a-3.a", "TPU_WORKER_ID": "2"}
JOB = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1", "HOSTNAME": "mine-workers-0-1-abcde"}
INHERITED = ("SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "KUBERNETES_", "CUDA_", "JAX_COORDINATOR", "JAX_LOCAL_DEVICE_IDS", "JOB_")
FIRST_PORT = 65535 - 2**12 + 1


@pytest.fixture
def starts(monkeypatch, tmp_path):
    """A function from a launcher's variables and settings of `hosts` to what JAX is told, None if it is told nothing."""
    told: list[tuple] = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *args, local_device_ids, **_: told.append((*args, local_device_ids))
    )
    monkeypatch.setattr(clusters.glob, "glob", lambda pattern: [])  # a machine without accelerators
    for name in [name for name in os.environ if name.startswith(INHERITED)]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)

    def start(variables: dict[str, str], **settings) -> tuple | None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        told.clear()
        with processes.joined(HostsConfig(**settings)):
            pass
        return told[0] if told else None

    return start


def test_slurm(starts, capsys):
    assert starts(SLURM) == (f"node001:{FIRST_PORT + 1}", 4, 3, None)
    assert capsys.readouterr().err == f"Slurm: process 3 of 4, coordinator node001:{FIRST_PORT + 1}\n"
    assert starts(SLURM | {"JAX_COORDINATOR_PORT": "8888"}) == ("node001:8888", 4, 3, None)
    assert starts(SLURM | {"JAX_COORDINATOR_ADDRESS": "10.0.0.7:99"}) == ("10.0.0.7:99", 4, 3, None)


@pytest.mark.parametrize(
    ("gpus", "own"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "2"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "1", "SLURM_GPUS_ON_NODE": "2"}, None),  # Slurm has given each process its own
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "4"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_ON_NODE": "4", "SLURM_STEP_TASKS_PER_NODE": "3,1"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_ON_NODE": "4", "JAX_PLATFORMS": "cpu"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "JAX_LOCAL_DEVICE_IDS": "2,3"}, None),
        ({}, None),
    ],
    ids=["one each", "one each, bound", "two each, bound", "alone on its machine", "on the CPU", "by hand", "no GPUs"],
)
def test_which_gpus_of_its_machine_a_process_uses(starts, gpus, own):
    assert starts(SLURM | gpus)[-1] == own


def test_gpus_that_nobody_divided_are_refused(starts):
    with pytest.raises(
        InputError, match="2 processes on this machine see the same 4 GPUs: start one process for each GPU or one"
    ):
        starts(SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_ON_NODE": "4"})


def test_gpus_are_counted_where_no_variable_names_them(starts, monkeypatch):
    monkeypatch.setattr(clusters.glob, "glob", lambda pattern: ["/dev/nvidia0", "/dev/nvidia1"] if "nvidia" in pattern else [])
    assert starts(SLURM)[-1] == [1]


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, ""),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, ""),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, "runs alone; srun would start 4 in this job"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, "runs alone; srun would start 4 in this job"),
        (OMPI | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, ""),
        (OMPI | SLURM | {"OMPI_COMM_WORLD_SIZE": "1"}, ""),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ""),
        ({"JOB_COMPLETION_INDEX": "1"}, ""),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}, ""),
    ],
    ids=[
        *("a desk", "a script of one task", "a step of one task", "a shell of a job", "a script without srun"),
        *("mpirun -n 1", "mpirun -n 1 in a step", "a pod", "another scheduler's index", "a pod of a TPU, computing elsewhere"),
    ],
)
def test_a_process_that_is_alone_waits_for_nobody(starts, capsys, variables, line):
    assert starts(variables) is None
    assert line in capsys.readouterr().err


def test_the_detection_can_be_switched_off(starts, capsys):
    assert starts(SLURM, cluster="off") is None
    assert starts(SLURM, cluster="off", coordinator="h:1", count=2, index=1) == ("h:1", 2, 1, None)
    assert capsys.readouterr().err == "hosts: process 1 of 2, coordinator h:1\n"


def test_open_mpi(starts, capsys):
    """Version 4 inside a step of Slurm's, where mpirun is what started this process."""
    port = FIRST_PORT + 1531576320 // 2**12 % 2**12
    assert starts(SLURM | OMPI_4 | {"CUDA_VISIBLE_DEVICES": "0,1"}) == (f"10.96.0.1:{port}", 2, 1, [1])
    assert capsys.readouterr().err.startswith("Open MPI: process 1 of 2, coordinator 10.96.0.1:")


MPI = """
class Comm:
    def Get_size(self): return 2
    def Get_rank(self): return 1
    def bcast(self, value, root): return "node7:99"
    def Split_type(self, kind): return self
class MPI:
    COMM_WORLD, COMM_TYPE_SHARED = Comm(), 0
"""


def test_what_only_mpi4py_tells(starts, tmp_path, monkeypatch):
    """A stand-in for the package. Open MPI 5 does not say where its processes meet; other MPIs are asked where they are named."""
    found = clusters.importlib.util.find_spec
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: None if name == "mpi4py" else found(name))
    with pytest.raises(InputError, match=r"through mpi4py alone: pip install mpi4py, or give hosts\.coordinator"):
        starts(OMPI)
    with pytest.raises(InputError, match=r"hosts\.cluster=mpi4py needs a package that is not installed"):
        starts({}, cluster="mpi4py")
    monkeypatch.setattr(clusters.importlib.util, "find_spec", found)
    (tmp_path / "mpi4py.py").write_text(MPI)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mpi4py", raising=False)
    assert starts(OMPI) == ("node7:99", 2, 1, None)
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE")
    assert starts({}, cluster="mpi4py") == ("node7:99", 2, 1, None)
    assert starts({"CUDA_VISIBLE_DEVICES": "0,1"}, cluster="mpi4py") == ("node7:99", 2, 1, [1])


@pytest.fixture
def tpu(monkeypatch):
    monkeypatch.setattr(clusters, "on_cloud_tpu", lambda: True)
    for module in (jax_clusters.cloud_tpu_cluster, jax_clusters.cluster):
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(jax_clusters.cloud_tpu_cluster.BaseTpuCluster, "wait_for_coordinator", lambda *_: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # JAX asks six times for what is not there


def test_gke(starts, tpu, monkeypatch, capsys):
    """A pod of an indexed Job too, which on TPUs is not what tells."""
    with metadata({"tpu-env": "ZONE: 'z'"}) as address:
        monkeypatch.setenv("GCE_METADATA_IP", address)
        assert starts(GKE | JOB) == ("a-0.a:8482", 4, 2, None)
        assert capsys.readouterr().err == "GKE: process 2 of 4, coordinator a-0.a:8482\n"
        assert starts(GKE | JOB | {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}) is None
    two = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "b-0.b:8080"}
    assert starts(GKE | two) == ("b-0.b:8482", 8, 6, None)


def test_a_cloud_tpu_slice(starts, tpu):
    worker = {"agent-worker-number": "1", "worker-network-endpoints": "a:0:10.0.0.1,b:1:10.0.0.2", "tpu-env": "ZONE: 'z'"}
    with metadata(worker) as address:
        assert starts({"GCE_METADATA_IP": address}) == ("10.0.0.1:8482", 2, 1, None)
    with metadata(worker | {"worker-network-endpoints": "a:0:10.0.0.1"}) as address:
        assert starts({"GCE_METADATA_IP": address}) is None
    with metadata({}) as address:  # chips, but not those of a slice
        assert starts({"GCE_METADATA_IP": address}) is None


KUBERNETES = """
from types import SimpleNamespace as N
class ApiException(Exception):
    status, reason = 403, "Forbidden"
class config:
    load_incluster_config = staticmethod(lambda: None)
labels = {"jobset.sigs.k8s.io/jobset-name": "mine", "job-name": "mine-workers-0"}
pod = N(metadata=N(name="p", labels=labels, owner_references=[N(controller=True, kind="Job")]), spec=N(subdomain="mine"))
job = N(metadata=N(name="mine-workers-0", labels=labels), spec=N(parallelism=4))
class client:
    exceptions = N(ApiException=ApiException)
    CoreV1Api = staticmethod(lambda: N(list_namespaced_pod=lambda *_, **__: N(items=[pod])))
    BatchV1Api = staticmethod(lambda: N(read_namespaced_job=lambda **_: job))
"""


def test_kubernetes(starts, tmp_path, monkeypatch, capsys):
    found = clusters.importlib.util.find_spec
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: None if name == "kubernetes" else found(name))
    with pytest.raises(
        InputError, match="one of an indexed Job of Kubernetes, and only its interface tells of how many: pip install"
    ):
        starts(JOB)
    monkeypatch.setattr(clusters.importlib.util, "find_spec", found)
    (tmp_path / "kubernetes.py").write_text(KUBERNETES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(jax_clusters.K8sCluster, "_namespace", lambda: "default")
    monkeypatch.setattr("socket.gethostbyname", lambda name: "127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert starts(JOB) == ("mine-workers-0-0.mine:55527", 4, 1, None)
    assert capsys.readouterr().err == "Kubernetes: process 1 of 4, coordinator mine-workers-0-0.mine:55527\n"
    monkeypatch.delenv("JOB_COMPLETION_INDEX")
    with pytest.raises(InputError, match="lacks JOB_COMPLETION_INDEX in"):
        starts({}, cluster="kubernetes")


@pytest.mark.parametrize(
    ("variables", "settings", "words"),
    [
        (SLURM, {"coordinator": "h:1", "count": 2, "index": 0}, "Slurm started this process as number 3 of 4: leave hosts.coord"),
        (
            SLURM,
            {"coordinator": "h:1", "count": 4, "index": 0},
            "hosts.count=4 and hosts.index=0, but Slurm started this process",
        ),
        (OMPI, {"coordinator": "h:1", "count": 2, "index": 0}, "Open MPI started this process as number 1 of 2"),
        ({}, {"cluster": "slurm"}, "SLURM_STEP_NUM_TASKS and SLURM_JOB_ID and"),
        (SLURM, {"cluster": "openmpi"}, "Open MPI is to tell which processes are this run, but lacks OMPI_COMM_WORLD_SIZE and"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, {}, "OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_LOCAL_RANK and"),
        (SLURM, {"cluster": "pbs"}, "hosts.cluster='pbs' is not known: write one of 'auto', 'off', 'openmpi', 'slurm'"),
        (
            SLURM,
            {"cluster": "slurm", "coordinator": "h:1", "count": 2, "index": 0},
            "hosts.cluster=slurm tells hosts.coordinator",
        ),
        (OMPI | {"OMPI_MCA_orte_hnp_uri": "?"}, {}, "Open MPI does not tell which processes are this run (invalid literal"),
    ],
    ids=lambda value: None,
)
def test_a_contradiction_or_half_of_the_variables_is_a_sentence(starts, variables, settings, words):
    with pytest.raises(InputError) as refused:
        starts(variables, **settings)
    assert words in str(refused.value)


def test_settings_that_say_what_slurm_says_are_taken(starts):
    assert starts(SLURM, coordinator="10.0.0.7:99", count=4, index=3) == ("10.0.0.7:99", 4, 3, None)
    assert starts(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, coordinator="h:1", count=2, index=1) == ("h:1", 2, 1, None)


def test_the_node_lists_of_slurm(starts):
    for nodes, first in {"n7": "n7", "n7,n9": "n7", "gpu[08-11,20]": "gpu08", "a-[3,5]": "a-3"}.items():
        assert starts(SLURM | {"SLURM_STEP_NODELIST": nodes})[0].startswith(f"{first}:")


MEETING = """
import sys
from mpo_jax.devices import processes
from mpo_jax.errors import one_sentence
with one_sentence(), processes.joined(processes.HostsConfig(timeout=10)), one_sentence():
    processes.say(f"together {processes.agree({'setting': 1})}")
"""


def meeting(numbers: range, port: int, script: Path) -> list[tuple[int, str, str]]:
    script.write_text(MEETING)
    env = {name: value for name, value in os.environ.items() if not name.startswith(INHERITED)} | SLURM
    env |= {
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_NODEID": "0",
    }
    env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "JAX_COORDINATOR_PORT": str(port)}
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

    def start(i: int) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, script], env=env | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}, **pipes)

    return finish([start(i) for i in numbers])


def test_processes_of_a_step_meet(tmp_path):
    ends = meeting(range(2), free_port(), tmp_path / "meet.py")
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "together None" in ends[0][1]


@pytest.mark.slow
def test_who_does_not_come_is_a_sentence(tmp_path):
    """Process 0 waits for process 1, and process 1 for a process 0 that never listens; and a port may be taken."""
    for number in range(2):
        port = free_port()
        ((code, _, err),) = meeting(range(number, number + 1), port, tmp_path / "meet.py")
        assert code == 2
        assert f"error: Process {number} of 2 has waited 10 s for the others at localhost:{port}; each that started" in err


def test_a_port_that_cannot_be_listened_at_is_a_sentence(starts):
    with socket.create_server(("", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot meet at localhost:{taken} .*: give all of them another port"):
            starts({}, coordinator=f"localhost:{taken}", count=2, index=0)
    with pytest.raises(InputError, match=r"cannot meet at localhost .*invalid literal"):
        starts({}, coordinator="localhost", count=2, index=0)
