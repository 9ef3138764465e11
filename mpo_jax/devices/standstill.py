"""Has the run come to a standstill? A process that hangs makes all the others wait for it, for ever."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import jax

STANDSTILL = 44  # exit code: an update took longer than anybody is willing to wait
CHECK = 0.5  # seconds between two looks at the clock
KEY = "mpo_jax/update"


class StandstillGuard:
    """Within it a thread ends this process if an update takes longer than `patience` seconds, and says which process is behind.

    For several processes: each tells JAX's coordinator at which update it is. One process has nobody to wait for, and is not
    watched. A process that died is JAX's to notice, by the `timeout` of `hosts.HostsConfig`; this is for one whose heart still
    beats: a program that waits for a disk, a collective that never comes back."""

    def __init__(self, patience: int):
        self.patience = patience
        self._since: float | None = None  # when the update began; None: nobody watches
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
        """The loop comes by: what it waits for next belongs to this update."""
        if self._several:
            _client().key_value_set(f"{KEY}/{jax.process_index()}", str(update), allow_overwrite=True)
            self._update, self._since = update, time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside may take as long as it wants; then the clock starts again."""
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
            f"After update {self._update} nothing came for {self.patience} s: {where}. Earlier checkpoints are untouched: look "
            "there, and continue with --config.checkpoint.resume=auto; if updates may take so long, raise hosts.patience."
        )


def _client() -> Any:
    from orbax.checkpoint import multihost

    return multihost.get_jax_distributed_client()
