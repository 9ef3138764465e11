"""Has the run come to a standstill? A process that hangs would make all others wait for it for ever."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import jax

STANDSTILL = 44  # exit code: an update took longer than `patience`
CHECK = 0.5  # seconds between two checks
KEY = "mpo_jax/update"


class StandstillGuard:
    """Within this context a thread ends this process if an update takes longer than `patience` seconds, and says which process is
    behind.

    For several processes: each reports its update to JAX's coordinator. A single process has no other to wait for, and is not
    watched. JAX itself notices a process that died, by the `timeout` of `processes.HostsConfig`; this is for one that still sends
    heartbeats but hangs, waiting for a disk or in a collective that never returns."""

    def __init__(self, patience: int):
        self.patience = patience
        self._since: float | None = None  # when the update began; None: not watching
        self._update = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="standstill", daemon=True)
        self._several = jax.process_count() > 1

    def __enter__(self) -> Self:
        if self._several:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def begins(self, update: int) -> None:
        """To be called by the loop: the time from here on belongs to this update."""
        if self._several:
            _client().key_value_set(f"{KEY}/{jax.process_index()}", str(update), allow_overwrite=True)
            self._update, self._since = update, time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside may take any time; afterwards the clock starts again."""
        self._since = None
        yield
        self._since = time.monotonic()

    def _look(self) -> None:
        while not self._over.wait(CHECK):
            since = self._since
            if since is not None and time.monotonic() - since > self.patience:
                sys.stdout.flush()
                try:
                    print(f"error: {self._report()}", file=sys.stderr, flush=True)
                finally:
                    os._exit(STANDSTILL)  # the main thread cannot be woken

    def _report(self) -> str:
        at = {int(key.rsplit("/", 1)[1]): int(value) for key, value in _client().key_value_dir_get(KEY)}
        last = max(at.values())
        behind = [f"process {index} is at {update}" for index, update in sorted(at.items()) if update < last]
        where = f"{', '.join(behind)}, the others at {last}" if behind else f"all {len(at)} processes are at {last}"
        return (
            f"No progress for {self.patience} s after update {self._update}: {where}. Check the processes that are behind, and "
            "continue with --config.checkpoint.resume=auto, since earlier checkpoints are untouched; if updates may take this "
            "long, raise hosts.patience."
        )


def _client() -> Any:
    from orbax.checkpoint import multihost

    return multihost.get_jax_distributed_client()
