"""Which of a run's processes is this one, and how do they stay together? On a pod every host runs the same program.

Each process computes on its own devices and reads the parts of the checkpoint that those need; only the first one prints, draws
and writes what is not an array. All must see the same output folder.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from mpo_jax.devices import clusters
from mpo_jax.errors import InputError, check_choice

MESSAGE = 2**20  # bytes of a message from the first process to the others
DIGEST = 16  # bytes
LEAVING = 15  # seconds that a process which stops waits for the others to stop too
DAY = 24 * 3600  # seconds: to wait for work that may take any time


@dataclasses.dataclass
class HostsConfig:
    """`count` processes, of which this one is number `index` (from 0); they meet at `coordinator`, HOST:PORT on the machine of
    process 0. If none of the three is given, the `cluster` tells them (a key of `clusters.CLUSTERS`; 'auto' = whichever started
    this process; 'off' = none), and a process that no cluster started is a run of its own. Processes wait for one another for
    `timeout` seconds at the start; later, if one is silent for that long, because it died or was cut off, the others end. So they
    do if an update takes longer than `patience` seconds (see `standstill`)."""

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    cluster: str = "auto"
    timeout: int = 300
    patience: int = 1800

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("coordinator", "count", "index")}
        if None in given.values() and any(value is not None for value in given.values()):
            lacks = " and ".join(f"hosts.{name}" for name, value in given.items() if value is None)
            raise InputError(f"hosts.coordinator, hosts.count and hosts.index only work together: give {lacks} too.")
        if self.count is not None and self.index is not None and not 0 <= self.index < self.count:
            raise InputError(f"hosts.index={self.index} must be below hosts.count={self.count}: processes are numbered from 0.")
        check_choice("hosts.cluster", self.cluster, ("auto", "off", *clusters.CLUSTERS))
        if self.count is not None and self.cluster not in ("auto", "off"):
            raise InputError(
                f"hosts.cluster={self.cluster} tells hosts.coordinator, hosts.count and hosts.index: leave these out."
            )
        for name in ("timeout", "patience"):
            if (seconds := getattr(self, name)) < 10:
                raise InputError(f"hosts.{name}={seconds} is too short for busy hosts: give 10 seconds or more.")

    def place(self) -> clusters.Place | None:
        """The place of this process in its run, None where it is alone. Errors: those of `clusters`."""
        if self.coordinator is None or self.count is None or self.index is None:
            return clusters.find(self.cluster, self.timeout)
        if self.cluster == "auto":
            clusters.check_agreement(self.count, self.index)
        return clusters.Place(self.coordinator, self.count, self.index)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `HostsConfig`, for a command without a config; `hosts_of` reads them."""
    several = "run this command in each of them; where a cluster started them they find each other without these options"
    options = parser.add_argument_group("several processes", several)
    options.add_argument("--hosts.coordinator", metavar="HOST:PORT", help="where the processes meet, on the machine of process 0")
    options.add_argument("--hosts.count", metavar="N", type=int, help="number of processes")
    options.add_argument("--hosts.index", metavar="I", type=int, help="number of this process, from 0")
    whose = "who tells all this (default: %(default)s, whichever started this process; off: nobody)"
    options.add_argument("--hosts.cluster", choices=("auto", "off", *clusters.CLUSTERS), default=HostsConfig.cluster, help=whose)
    silence = "how long a process may be silent before the others end (default: %(default)s)"
    options.add_argument("--hosts.timeout", metavar="SECONDS", type=int, default=HostsConfig.timeout, help=silence)


def hosts_of(options: argparse.Namespace) -> HostsConfig:
    """Errors: those of `HostsConfig`."""
    given = vars(options)
    return HostsConfig(**{name: given[f"hosts.{name}"] for name in ("coordinator", "count", "index", "cluster", "timeout")})


@contextlib.contextmanager
def joined(config: HostsConfig) -> Iterator[None]:
    """Within this context the process is one of the run's. To be entered at the start of a program, before anything uses a
    device.

    Processes that all stop with an exit code end together. One that stops or fails alone ends at once, and JAX ends the others:
    an orderly end would wait for them, and they for it.
    """
    if (place := config.place()) is not None:
        _meet(place, config.timeout)
    elif config.cluster == "auto" and (line := clusters.idle_tasks()) is not None:
        print(line, file=sys.stderr, flush=True)
    try:
        yield
    except SystemExit as end:
        if end.code:
            _leave(end.code)
        raise
    except BaseException:
        if jax.process_count() == 1:
            raise
        print(f"process {jax.process_index()} of {jax.process_count()} failed:\n{traceback.format_exc()}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)


def _meet(place: clusters.Place, timeout: int) -> None:
    """Returns when all processes have come. If one has not after `timeout` seconds, ends this one with a sentence and code 2,
    where JAX would abort. Errors: those of `_check_port`, in process 0."""
    if place.index == 0:
        _check_port(place.coordinator)
    print(place, file=sys.stderr, flush=True)  # of every process: the number that no one says is that of the one who is missing

    def give_up() -> None:
        who = f"Process {place.index} of {place.count} has waited {timeout} s for the others at {place.coordinator}"
        advice = "each that started has said so: see which one is missing, and whether its machine reaches that address"
        print(f"error: {who}; {advice}.", file=sys.stderr, flush=True)
        os._exit(2)  # the main thread cannot be woken

    patience = threading.Timer(timeout, give_up)
    patience.daemon = True
    patience.start()
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        local_device_ids=place.gpus,
        cluster_detection_method="deactivate",
        initialization_timeout=timeout + LEAVING,
        heartbeat_timeout_seconds=timeout,
    )
    patience.cancel()


def _check_port(coordinator: str) -> None:
    """Errors: another program of this machine has the coordinator's port, at which jaxlib may end without a word."""
    try:
        socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"The processes cannot meet at {coordinator} ({error}): give all of them another port, in hosts.coordinator, or as "
            "JAX_COORDINATOR_PORT where a cluster tells it."
        ) from error


def _leave(code: Any) -> None:
    """Returns if all processes are ending, and ends this one with `code` if it is the only one."""
    try:
        wait("all processes leave", LEAVING)
    except TimeoutError:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def first() -> bool:
    """Whether this is the process that prints and writes."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line for the user, in the first process only."""
    if first():
        print(text, flush=True)


def progress(*args: Any, **options: Any) -> Any:
    """A tqdm bar, in the first process only."""
    return tqdm(*args, disable=not first(), **options)


def wait(name: str, timeout: int = 600) -> None:
    """Returns when every process has called it with this name. Errors: TimeoutError if one has not after `timeout` seconds."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        try:
            multihost.get_barrier_sync_fn()(key=name, timeout_ms=1000 * timeout)
        except jax.errors.JaxRuntimeError as error:
            text = f"'{name}': not all {jax.process_count()} processes arrived within {timeout} s ({error})"
            raise TimeoutError(text) from error


def agree(parts: dict[str, Any]) -> None:
    """Returns if all processes have the same JSON value for each of these names. Errors: a sentence that says which processes
    differ from the first one, and in what. Only digests are exchanged."""
    if jax.process_count() == 1:
        return
    mine = [hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=DIGEST).digest() for value in parts.values()]
    with jax.transfer_guard("allow"):
        told = multihost_utils.process_allgather(np.frombuffer(b"".join(mine), np.uint8))
    differs = (told.reshape(jax.process_count(), len(parts), DIGEST) != told[0].reshape(len(parts), DIGEST)[None]).any(axis=2)
    said = [
        f"process {index} has other {' and '.join(name for name, other in zip(parts, of, strict=True) if other)}"
        for index, of in enumerate(differs)
        if of.any()
    ]
    if said:
        raise InputError(
            f"The processes do not agree, since {'; '.join(said)} than process 0: give all the same settings and files."
        )


def on_first(do: Callable[[], Any]) -> Any:
    """Calls `do` in the first process only, and returns its result, a JSON value, in all. An `InputError` there is raised in all
    processes."""
    if jax.process_count() == 1:
        return do()
    answer: dict[str, Any] = {}
    if first():
        try:
            answer = {"value": do()}
        except InputError as refused:
            answer = {"error": str(refused)[: MESSAGE // 8]}  # a character takes up to six bytes in JSON
    text = json.dumps(answer).encode()
    assert len(text) <= MESSAGE, f"{len(text)} bytes to tell the other processes"
    with jax.transfer_guard("allow"):
        told = multihost_utils.broadcast_one_to_all(np.frombuffer(text.ljust(MESSAGE), np.uint8))
    answer = json.loads(bytes(np.asarray(told)))
    if "error" in answer:
        raise InputError(answer["error"])
    return answer["value"]
