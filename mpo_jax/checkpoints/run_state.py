"""How does training survive an interruption? Orbax checkpoints of the state, with a record of the run that the state belongs to.

Orbax renames a folder into place when it is complete, so a process that dies leaves no half-written checkpoint. It does not
notice flipped bits, so each checkpoint also holds digests of its files, which are compared before anything is restored.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mpo_jax.devices import processes
from mpo_jax.errors import InputError, check_choice
from mpo_jax.files import paths
from mpo_jax.files.digests import digests
from mpo_jax.files.json_files import write_json
from mpo_jax.types import TrainState

MANIFEST = "digests.json"
UNSIGNED = ("_CHECKPOINT_METADATA", "commit_success.txt")  # Orbax writes the time into them when all else is written


@dataclasses.dataclass
class CheckpointConfig:
    """A checkpoint every `every` updates and at the end (0 = never), written while training goes on; the newest `keep` are kept.

    `resume`: 'auto' continues from the newest checkpoint in the output folder if there is one; 'never' starts from scratch, and
    refuses an output folder that is not empty. `allow_changed` continues even if settings, data or model differ from those of the
    checkpoint, and prints the differences.
    """

    every: int = 50
    keep: int = 2
    resume: str = "never"
    allow_changed: bool = False

    def __post_init__(self) -> None:
        check_choice("checkpoint.resume", self.resume, ("auto", "never"))
        if self.every < 0 or self.keep < 1:
            raise InputError(
                f"checkpoint.every={self.every} must be 0 (never) or more, and checkpoint.keep={self.keep} at least 1."
            )


class Identity(Protocol):
    """What identifies a run. `facts` are stored as JSON with each checkpoint; `differences` from those of another run are
    phrases."""

    @property
    def facts(self) -> dict[str, Any]: ...

    def differences(self, kept: dict[str, Any]) -> list[str]: ...


class Checkpointer:
    """Owns the checkpoints of one run. A checkpoint with another `identity` is refused."""

    def __init__(self, folder: Path, config: CheckpointConfig, identity: Identity):
        self._config = config
        self._identity = identity
        self._folder = paths.absolute(folder)
        self._saving = 0  # the update whose state is being written
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),  # `due` decides
                preservation_policy=checkpoint_managers.LatestN(config.keep),
                step_prefix="step",
                cleanup_tmp_directories=True,  # of processes that died while they wrote
                async_options=ocp.AsyncOptions(post_finalization_callback=self._sign),
            ),
        )

    def newest(self) -> int | None:
        """The update of the newest checkpoint, damaged or not; None where there is none."""
        return self._manager.latest_step()

    def due(self, step: int, last: int, stop: bool = False) -> bool:
        """Whether to save the state after `step` of `last` updates; `stop`: the run ends here."""
        every = self._config.every
        return every > 0 and (stop or (step > 0 and (step % every == 0 or step == last)))

    def save(self, step: int, state: TrainState) -> None:
        """Starts to save; the state may be donated as soon as this returns. A step that is already saved stays as it is. Errors,
        of this save or of the one before: no room, or no permission."""
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(_tree(state)), identity=ocp.args.JsonSave(self._identity.facts))
        with self._writing():
            self._manager.wait_until_finished()
            self._saving = step
            self._manager.save(step, args=args)

    def restore_latest(self, abstract: TrainState) -> TrainState | None:
        """The newest state whose files are intact, laid out as `abstract` says (any mesh); None where there is no checkpoint.
        Newer, damaged ones are moved to the folder `broken_checkpoints`, since the run will save those updates again. Errors:
        every checkpoint is damaged; the checkpoint belongs to another run."""
        whole, broken = processes.on_first(self._newest_whole)
        for step, reason in broken:
            processes.say(f"checkpoint: update {step} is damaged ({reason}) and is skipped")
        if whole is None and broken:
            raise InputError(
                f"Every checkpoint in {self._folder} is damaged ("
                + "; ".join(f"update {step}: {reason}" for step, reason in broken)
                + "): restore one from a backup, or start from scratch with another --config.output."
            )
        if whole is None:
            return None
        state = self._restore(whole, abstract)
        if broken:
            processes.on_first(lambda: self._set_aside([step for step, _ in broken]))
            self._manager.reload()
        processes.say(f"checkpoint: continuing after update {whole}")
        return state

    def _newest_whole(self) -> tuple[int | None, list[tuple[int, str]]]:
        """The update of the newest intact checkpoint, and (update, reason) of the newer, damaged ones."""
        broken = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            if (reason := flaw(self._folder / f"step_{step}")) is None:
                return step, broken
            broken.append((step, reason))
        return None, broken

    def close(self) -> None:
        with self._writing():
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()

    def _restore(self, step: int, abstract: TrainState) -> TrainState:
        kept = self._manager.restore(step, args=ocp.args.Composite(identity=ocp.args.JsonRestore()))["identity"]
        difference = "; ".join(self._identity.differences(kept))
        if difference and not self._config.allow_changed:
            raise InputError(
                f"The checkpoint of update {step} in {self._folder} belongs to another run: {difference}; choose another output "
                "folder, undo these changes, or allow them with --config.checkpoint.allow_changed=True."
            )
        if difference:
            processes.say(
                f"checkpoint: update {step} belongs to another run, which checkpoint.allow_changed allows: {difference}"
            )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_tree(abstract)))
        try:
            return TrainState(**self._manager.restore(step, args=args)["state"])
        except ValueError as error:
            mend = (
                "undo the changed settings"
                if difference
                else "another version of mpo_jax wrote it, so continue with that version, or choose another output folder"
            )
            raise InputError(
                f"The state of update {step} in {self._folder} does not fit what this run trains ({_first(error)}): {mend}."
            ) from error

    def _set_aside(self, broken: list[int]) -> None:
        for step in broken:
            paths.move(self._folder / f"step_{step}", self._folder.with_name("broken_checkpoints") / f"step_{step}")

    def _sign(self) -> None:
        """Called by Orbax, in the thread that saves, after all files are written and before the checkpoint is valid: on a disk
        before its temporary folder is renamed, in a bucket before the last file marks it as complete."""
        if processes.first():
            (partial,) = self._folder.glob(f"step_{self._saving}" + ("" if paths.in_bucket(self._folder) else ".*"))
            write_json(partial / MANIFEST, _signed(partial))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # tensorstore raises a ValueError whatever happened to a file, its cause last
            if isinstance(error, ValueError) and "os_error_code" not in str(error):
                raise  # not about a file: a collective whose other processes are gone
            reason = _first(error).rpartition(": ")[2]
            raise InputError(
                f"The checkpoint of update {self._saving} could not be written to {self._folder} ({reason}). Earlier checkpoints "
                "are untouched: make room there, and continue with --config.checkpoint.resume=auto."
            ) from error


def flaw(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint; None where they are intact."""
    try:
        written = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = _signed(folder)
    except (OSError, ValueError) as error:
        return f"{MANIFEST} or a file that it lists cannot be read: {_first(error)}"
    for name, digest in written.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != digest:
            return f"{name} has changed since it was written"
    return None


def _signed(folder: Path) -> dict[str, str]:
    files = digests(folder, ("**/*",))
    return {name: digest for name, digest in files.items() if Path(name).name not in (*UNSIGNED, MANIFEST)}


def _first(error: Exception) -> str:
    """What an error says, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).split(" [")[0].splitlines()[0]


def _tree(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "trainable": state.trainable, "opt_state": state.opt_state}
