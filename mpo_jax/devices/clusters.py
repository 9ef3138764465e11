"""Does a cluster's launcher say which processes are one run? Slurm, Open MPI, Kubernetes and Cloud TPUs do; JAX reads them.

What each of them sets and how the coordinator follows from it is JAX's knowledge (`jax._src.clusters`, which
`jax.distributed.initialize` asks too). Asked directly, it answers before anything waits: then a person sees for whom a process
waits, a contradiction is a sentence, and a single process waits for nobody.
"""

import dataclasses
import glob
import importlib.util
import os
import re
from collections.abc import Callable

from jax._src import clusters  # no public name tells what JAX would find

from mpo_jax.errors import InputError

OWN_CHOICE = "or give hosts.coordinator, hosts.count and hosts.index, or hosts.cluster=off for a run of one process"


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a process in its run: number `index` of `count`, which meet at `coordinator`, HOST:PORT. `gpus`: the numbers
    of those of this machine that it uses, None = all that it sees. `told_by`: who said so."""

    coordinator: str
    count: int
    index: int
    gpus: list[int] | None = None
    told_by: str = "hosts"

    def __str__(self) -> str:
        return f"{self.told_by}: process {self.index} of {self.count}, coordinator {self.coordinator}"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A launcher. `here`: whether it started this process; `variables`: what it then has set, of which the first is the number
    of processes if `counts`; `reader`: JAX's class for it, None where this machine itself says that the process is alone;
    `beside`: how many of the processes are on this machine."""

    title: str
    here: Callable[[], bool]
    variables: tuple[str, ...]
    reader: Callable[[], type[clusters.ClusterEnv] | None]
    counts: bool = False
    beside: Callable[[], int] = lambda: 1


def find(name: str, timeout: int) -> Place | None:
    """The place of this process in its run, None where it is alone. `name`: a key of `CLUSTERS`; 'auto' = the first one that
    started this process; 'off' = none. The coordinator's name may take up to `timeout` seconds to be known. Errors: a launcher
    that was asked for and did not start this process, or that does not say what is needed."""
    if name == "auto":
        name = next((known for known, cluster in CLUSTERS.items() if cluster.here()), "off")
    if name == "off":
        return None
    cluster = CLUSTERS[name]
    if missing := [variable for variable in cluster.variables if variable not in os.environ]:
        raise InputError(
            f"{cluster.title} is to tell which processes are this run, but lacks {' and '.join(missing)} in the environment: "
            f"start every process with its launcher, {OWN_CHOICE}."
        )
    if cluster.counts and int(os.environ[cluster.variables[0]]) == 1:
        return None
    try:
        if (reader := cluster.reader()) is None:
            return None
        count = int(os.environ[cluster.variables[0]]) if cluster.counts else reader.get_process_count()
        if count == 1:
            return None
        index, local = reader.get_process_id(), reader.get_local_process_id()
        coordinator = os.environ.get("JAX_COORDINATOR_ADDRESS") or reader.get_coordinator_address(
            timeout_secs=timeout, override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT")
        )
    except InputError:
        raise
    except Exception as error:  # each reader has errors of its own, of the network among them
        raise InputError(
            f"{cluster.title} does not tell which processes are this run ({error}): mend that, {OWN_CHOICE}."
        ) from error
    return Place(coordinator, count, index, None if local is None else own_gpus(local, cluster.beside()), cluster.title)


def check_agreement(count: int, index: int) -> None:
    """Errors: a launcher says in its variables that this process is another one, or one of another number of them."""
    for title, told_count, told_index in (
        ("Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
        ("Slurm", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ):
        told = os.environ.get(told_count, "1"), os.environ.get(told_index, "0")
        if told[0] != "1":
            if told != (str(count), str(index)):
                raise InputError(
                    f"hosts.count={count} and hosts.index={index}, but {title} started this process as number {told[1]} of "
                    f"{told[0]}: leave hosts.coordinator, hosts.count and hosts.index out, and {title} tells them, or add "
                    "hosts.cluster=off."
                )
            return


def idle_tasks() -> str | None:
    """A line for a process of Slurm's that `srun` did not start, or started alone, in a job that has room for several."""
    if int(os.environ.get("SLURM_NTASKS", 1)) == 1 or os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return None
    return f"Slurm: this process runs alone; srun would start {os.environ['SLURM_NTASKS']} in this job"


def own_gpus(local: int, beside: int) -> list[int] | None:
    """Which GPUs of its machine process `local` of the `beside` there uses: all that it sees if it is alone or has been given
    some of them, else the one with its number. Errors: neither one process a machine nor one a GPU."""
    seen, allocated = visible_gpus(), int(os.environ.get("SLURM_GPUS_ON_NODE", 0))
    if "JAX_LOCAL_DEVICE_IDS" in os.environ or beside == 1 or seen < 2 or seen < allocated:
        return None
    if seen != beside:
        raise InputError(
            f"{beside} processes on this machine see the same {seen} GPUs: start one process for each GPU or one for the whole "
            "machine, or give each process its own (srun --gpus-per-task, or CUDA_VISIBLE_DEVICES)."
        )
    return [local]


def visible_gpus() -> int:
    """The number of NVIDIA GPUs that this process may compute on."""
    if not set(os.environ.get("JAX_PLATFORMS", "cuda").split(",")) & {"cuda", "gpu"}:
        return 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return len(glob.glob("/dev/nvidia[0-9]*")) if named is None else len([name for name in named.split(",") if name])


def on_cloud_tpu() -> bool:
    """Whether JAX will compute on TPU chips in this machine."""
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    return "tpu" in os.environ.get("JAX_PLATFORMS", "tpu") and bool(chips) and importlib.util.find_spec("libtpu") is not None


def _slurm_tasks_beside() -> int:
    """SLURM_STEP_TASKS_PER_NODE of this node: "2(x3),1" is 2, 2, 2, 1."""
    counts = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ["SLURM_STEP_TASKS_PER_NODE"]):
        counts += [int(count)] * int(times or 1)
    return counts[int(os.environ["SLURM_NODEID"])]


def _open_mpi() -> type[clusters.ClusterEnv]:
    if "OMPI_MCA_orte_hnp_uri" in os.environ:
        return clusters.OmpiCluster
    if importlib.util.find_spec("mpi4py") is None:  # from version 5 on no variable says where the first process is
        raise InputError(
            f"This version of Open MPI tells where its processes meet through mpi4py alone: pip install mpi4py, {OWN_CHOICE}."
        )
    return clusters.Mpi4pyCluster


def _mpi4py() -> type[clusters.ClusterEnv]:
    if importlib.util.find_spec("mpi4py") is None:
        raise InputError("hosts.cluster=mpi4py needs a package that is not installed: pip install mpi4py.")
    return clusters.Mpi4pyCluster


def _mpi_beside() -> int:
    from mpi4py import MPI  # pyright: ignore[reportMissingImports]

    return MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED).Get_size()


def _kubernetes() -> type[clusters.ClusterEnv]:
    if importlib.util.find_spec("kubernetes") is None:
        raise InputError(
            "This process is one of an indexed Job of Kubernetes, and only its interface tells of how many: "
            f"pip install kubernetes, {OWN_CHOICE}."
        )
    clusters.K8sCluster.is_env_present()  # connects
    return clusters.K8sCluster


# In the order in which they are looked for: what a process inherited from an outer launcher comes later.
CLUSTERS = {
    "openmpi": Cluster(
        "Open MPI",
        here=lambda: "OMPI_COMM_WORLD_SIZE" in os.environ,
        variables=("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        reader=_open_mpi,
        counts=True,
        beside=lambda: int(os.environ["OMPI_COMM_WORLD_LOCAL_SIZE"]),
    ),
    # SLURM_NTASKS, which JAX asks, is the whole job's in a shell of that job too, where one process is alone.
    "slurm": Cluster(
        "Slurm",
        here=lambda: "SLURM_STEP_NUM_TASKS" in os.environ,
        variables=(
            *("SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE"),
            *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
        ),
        reader=lambda: clusters.SlurmCluster,
        counts=True,
        beside=_slurm_tasks_beside,
    ),
    "gke": Cluster(
        "GKE",
        here=lambda: on_cloud_tpu() and clusters.GkeTpuCluster.is_env_present(),
        variables=("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID"),
        reader=lambda: clusters.GkeTpuCluster,
    ),
    "cloud_tpu": Cluster(
        "Cloud TPU",
        here=lambda: on_cloud_tpu() and "TPU_SKIP_MDS_QUERY" not in os.environ,  # set where no server tells of the slice
        variables=(),
        reader=lambda: clusters.GceTpuCluster if clusters.GceTpuCluster.is_env_present() else None,
    ),
    "kubernetes": Cluster(
        "Kubernetes",
        here=lambda: "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" in os.environ,
        variables=("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"),
        reader=_kubernetes,
    ),
    "mpi4py": Cluster("mpi4py", here=lambda: False, variables=(), reader=_mpi4py, beside=_mpi_beside),  # only where it is named
}
