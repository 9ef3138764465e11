"""Which of a run's processes is this one, and how do they stay together? On a pod every host runs the same program.

Each process computes on its own devices and reads the parts of the checkpoint that those need; the first one alone talks, draws
and writes what is not an array. All see one output folder.
"""

import argparse
import contextlib
import dataclasses
import glob
import hashlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from mpo_jax.errors import InputError

MESSAGE = 2**20  # bytes of what the first process tells the others
DIGEST = 16  # bytes
LEAVING = 15  # seconds in which processes that all stop come together to do so


@dataclasses.dataclass
class HostsConfig:
    """`count` processes, this one being number `index` from 0, which meet at `coordinator`: HOST:PORT on the machine of process
    0. Where none of the three is given a Cloud TPU VM finds them out, and any other machine is one process. A process that is
    silent for `timeout` seconds, dead or cut off, ends the others; so does an update that takes all of them longer than
    `patience` seconds (see `standstill`)."""

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    timeout: int = 300
    patience: int = 1800

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("coordinator", "count", "index")}
        if None in given.values() and any(value is not None for value in given.values()):
            lacks = " and ".join(f"hosts.{name}" for name, value in given.items() if value is None)
            raise InputError(
                f"Processes are set up by hosts.coordinator, hosts.count and hosts.index together: give {lacks} too."
            )
        if self.count is not None and self.index is not None and not 0 <= self.index < self.count:
            raise InputError(f"hosts.index={self.index} is none of the hosts.count={self.count} processes: they count from 0.")
        for name in ("timeout", "patience"):
            if (seconds := getattr(self, name)) < 10:
                raise InputError(f"hosts.{name}={seconds} is too short for hosts that are busy: give 10 seconds or more.")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `HostsConfig` for a command that has no config, for `hosts_of`."""
    several = "each of them runs this command; on a Cloud TPU slice they find each other without these options"
    options = parser.add_argument_group("several processes", several)
    options.add_argument("--hosts.coordinator", metavar="HOST:PORT", help="where they meet, on the machine of process 0")
    options.add_argument("--hosts.count", metavar="N", type=int, help="how many there are")
    options.add_argument("--hosts.index", metavar="I", type=int, help="which one this is, from 0")
    silence = "how long one may be silent before the others end (default: %(default)s)"
    options.add_argument("--hosts.timeout", metavar="SECONDS", type=int, default=HostsConfig.timeout, help=silence)


def hosts_of(options: argparse.Namespace) -> HostsConfig:
    """Errors: those of `HostsConfig`."""
    given = vars(options)
    return HostsConfig(**{name: given[f"hosts.{name}"] for name in ("coordinator", "count", "index", "timeout")})


@contextlib.contextmanager
def joined(config: HostsConfig) -> Iterator[None]:
    """Within it this process is one of the run's. For the start of a program, before anything asks for a device.

    Processes that all stop with an exit code leave together. One that stops or fails alone ends without taking its leave, and
    JAX ends the others: in order it would wait for them, and they for it.
    """
    if config.coordinator is not None:
        jax.distributed.initialize(
            config.coordinator,
            config.count,
            config.index,
            cluster_detection_method="deactivate",
            initialization_timeout=config.timeout,
            heartbeat_timeout_seconds=config.timeout,
        )
    elif _on_cloud_tpu():
        jax.distributed.initialize(heartbeat_timeout_seconds=config.timeout)
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


def _leave(code: Any) -> None:
    """Returns if all processes leave, and ends this one with `code` if it is alone."""
    try:
        wait("all processes leave", LEAVING)
    except TimeoutError:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _on_cloud_tpu() -> bool:
    """Whether JAX will compute on TPU chips of this machine."""
    platforms = os.environ.get("JAX_PLATFORMS", "tpu")
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    return "tpu" in platforms and bool(chips) and importlib.util.find_spec("libtpu") is not None


def first() -> bool:
    """Whether this process is the one that talks and writes."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """A line for the person, once a run."""
    if first():
        print(text, flush=True)


def progress(*args: Any, **options: Any) -> Any:
    """tqdm's bar, once a run."""
    return tqdm(*args, disable=not first(), **options)


def wait(name: str, timeout: int = 600) -> None:
    """Returns when every process is here. Errors: TimeoutError where one is not after `timeout` seconds, with this place's
    name."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        try:
            multihost.get_barrier_sync_fn()(key=name, timeout_ms=1000 * timeout)
        except jax.errors.JaxRuntimeError as error:
            text = f"'{name}': not all {jax.process_count()} processes were there after {timeout} s ({error})"
            raise TimeoutError(text) from error


def agree(parts: dict[str, Any]) -> None:
    """Returns if all processes have the same value of JSON for each of these names. Errors: a sentence that says which processes
    differ from the first one, and in what. Nothing but digests is exchanged."""
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
        raise InputError(f"Not all processes run the same: {'; '.join(said)} than process 0: give all of them the same files.")


def on_first(do: Callable[[], Any]) -> Any:
    """What `do` returns in the first process, a value of JSON: it alone does it, and the others wait. A sentence that stops it
    stops them too."""
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
