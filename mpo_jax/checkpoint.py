"""How does training survive an interruption? Orbax checkpoints of the state, and of what the state belongs to."""

import dataclasses
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mpo_jax.errors import InputError, check_choice
from mpo_jax.step import TrainState


@dataclasses.dataclass
class CheckpointConfig:
    """A checkpoint every `every` updates and at the end (0 = never), written while training goes on; the newest `keep` stay.

    `resume`: 'auto' continues from the newest checkpoint in the output folder if there is one; 'never' starts anew, and
    refuses an output folder that already holds a run.
    """

    every: int = 50
    keep: int = 2
    resume: str = "never"

    def __post_init__(self) -> None:
        check_choice("checkpoint.resume", self.resume, ("auto", "never"))
        if self.every < 0 or self.keep < 1:
            raise InputError(
                f"checkpoint.every={self.every} must be 0 (never) or more and checkpoint.keep={self.keep} at least 1."
            )


class Checkpointer:
    """Owns the checkpoints of one run. `identity` is what a run is (config, data): a checkpoint of another one is refused."""

    def __init__(self, folder: Path, config: CheckpointConfig, identity: dict[str, Any]):
        self._every = config.every
        self._identity = identity
        self._manager = ocp.CheckpointManager(
            folder.resolve(),
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),  # `due` decides
                preservation_policy=checkpoint_managers.LatestN(config.keep),
                step_prefix="step",
            ),
        )

    def due(self, step: int, last: int) -> bool:
        """Whether the state after `step` of `last` updates is to be kept."""
        return self._every > 0 and (step % self._every == 0 or step == last)

    def save(self, step: int, state: TrainState) -> None:
        """Starts to save; the state may be donated as soon as this returns. A step that is kept already stays as it is."""
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(_tree(state)), identity=ocp.args.JsonSave(self._identity))
        self._manager.save(step, args=args)

    def restore_latest(self, abstract: TrainState) -> TrainState | None:
        """The newest state, laid out as `abstract` says (any mesh); None where there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        kept = self._manager.restore(step, args=ocp.args.Composite(identity=ocp.args.JsonRestore()))["identity"]
        if difference := differences(kept, self._identity):
            raise InputError(
                f"The checkpoint of update {step} in {self._manager.directory} belongs to another run: {'; '.join(difference)}; "
                "choose another output folder or restore these settings."
            )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_tree(abstract)))
        return TrainState(**self._manager.restore(step, args=args)["state"])

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def _tree(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}


def differences(kept: Any, given: Any, name: str = "") -> list[str]:
    """Where two JSON trees differ, a phrase each."""
    if isinstance(kept, dict) and isinstance(given, dict):
        keys = sorted(kept.keys() | given.keys())
        return [d for key in keys for d in differences(kept.get(key), given.get(key), f"{name}.{key}" if name else key)]
    if isinstance(kept, tuple | list) and isinstance(given, tuple | list):
        kept, given = list(kept), list(given)
    return [] if kept == given else [f"{name} was {kept!r} and is now {given!r}"]
