"""Has the run been asked to stop? By SIGTERM, from a scheduler or at a preemption, or by Ctrl-C."""

import os
import signal
from types import FrameType
from typing import Any, Self

import jax

SIGNALS = (signal.SIGTERM, signal.SIGINT)
CONTINUE = 42  # exit code: saved; the same command with resume=auto continues
NOTHING_KEPT = 43  # exit code: checkpoints are off


class Interruption:
    """Within this context the first SIGTERM or SIGINT only sets `asked`; the training loop decides when to stop. A second one
    ends the process at once. Outside of it both signals do what they did before. For the main thread.

    With several processes any of them may receive SIGTERM. JAX then handles the signal, and finds an update at which all
    processes learn of it."""

    def __init__(self):
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if jax.process_count() == 1:
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def stops(self, update: int) -> bool:
        """Whether to stop after this update; the same in all processes. To be called after every update."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            self.asked = self.asked or multihost_utils.reached_preemption_sync_point(update)
        return self.asked

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: a library in C has set it

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        name = signal.Signals(number).name
        # The signal may have interrupted print(), which must not be entered twice.
        os.write(2, f"\n{name}: stopping after this update\n".encode())


class Interrupted(Exception):
    """The run stopped because it was asked to. The message is for the user, `code` for the program that started the run."""

    def __init__(self, updates: int, kept: bool):
        self.code = CONTINUE if kept else NOTHING_KEPT
        what = "saved; continue with --config.checkpoint.resume=auto" if kept else "nothing was saved, since checkpoint.every=0"
        super().__init__(f"interrupted after update {updates}; {what}")
