"""When is a run's data audited? While the run loads, compiles and trains, none of which waits for it."""

import concurrent.futures
import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from mpo_jax.data.audit import warnings
from mpo_jax.data.dataset import Data
from mpo_jax.devices import processes
from mpo_jax.files.json_files import write_json


class AuditBeside:
    """Owns the thread of the first process that audits the rows of a run, and gives up when the run is left before the audit is
    there."""

    def __init__(self, data: Data, folder: Path):
        self._folder, self._given_up = folder, threading.Event()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._found = self._thread.submit(data.findings, self._given_up.is_set) if processes.first() else None
        self._failure_is_said = False

    def __enter__(self) -> Self:
        return self

    def publish(self, say: Callable[[str], None], wait: bool = False) -> None:
        """If the audit is there, writes audit.json and says what it warns of, once; or that it has failed, once. With `wait`, all
        processes return when it is there. Errors: with `wait` those of the audit, which cost no update."""
        if self._found is not None and (wait or self._found.done()):
            if not self._found.done():
                say("the audit of the data is not done yet: waiting for it")
            if not wait and (error := self._found.exception()) is not None:
                self._say_failure(say, error)
                return
            found, self._found = self._found.result(), None
            write_json(self._folder / "audit.json", {language: dataclasses.asdict(counts) for language, counts in found.items()})
            for warning in warnings(found):
                say(f"warning: {warning} (audit.json; docs/data.md)")
        if wait:  # JAX ends all processes where one has ended five minutes before another
            processes.wait("the audit is there", processes.DAY)

    def _say_failure(self, say: Callable[[str], None], error: BaseException) -> None:
        if not self._failure_is_said:
            say(f"warning: the audit of the data has failed, and the run will end with this error after training: {error}")
        self._failure_is_said = True

    def __exit__(self, *_: Any) -> None:
        self._given_up.set()
        self._thread.shutdown()
