"""Has somebody asked the run to stop? With SIGTERM, as schedulers and machines that are taken away do, or with Ctrl-C."""

import os
import signal
from types import FrameType
from typing import Any, Self

import jax

SIGNALS = (signal.SIGTERM, signal.SIGINT)
CONTINUE = 42  # exit code: saved, and the same command with resume=auto goes on
NOTHING_KEPT = 43  # exit code: checkpoints are off


class Interruption:
    """Within it the first SIGTERM or SIGINT only sets `asked`, and the one who asks for it decides when to stop. A second one
    ends the process at once. Outside of it both do what they did before. For the main thread.

    Of several processes any one may get SIGTERM, and JAX, which then has the handler, finds the update at which all of them learn
    of it."""

    def __init__(self):
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if jax.process_count() == 1:
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def stops(self, update: int) -> bool:
        """Whether to stop after this update, the same in all processes. To be asked at each of them."""
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
        # print() may be what the signal has interrupted, and must not be entered twice.
        os.write(2, f"\n{name}: stopping after this update\n".encode())


class Interrupted(Exception):
    """The run stopped because it was asked to. The message is for the person, `code` for the program that started it."""

    def __init__(self, updates: int, kept: bool):
        self.code = CONTINUE if kept else NOTHING_KEPT
        what = "saved; continue with --config.checkpoint.resume=auto" if kept else "nothing is kept with checkpoint.every=0"
        super().__init__(f"interrupted after update {updates}; {what}")
