"""Which numbers of a run are arguments of its compiled step? Runs that differ only in these share one program."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mpo_jax.losses.base import PreferenceLoss, numbers_of
from mpo_jax.training.config import TrainConfig, describe
from mpo_jax.types import Number, Numbers

PEAK_LR, LOSS = "peak_lr", "loss"


def step_numbers(loss: PreferenceLoss, peak_lr: Number) -> Numbers:
    """The arguments of `step.TrainStep` beside state and batch: the numbers of the method's equation, and the peak learning
    rate."""
    return {LOSS: numbers_of(loss), PEAK_LR: peak_lr}


def on_mesh(numbers: Numbers, mesh: Mesh) -> Numbers:
    """As f32 () on every device, for a loop that transfers nothing else."""
    return jax.device_put(jax.tree.map(np.float32, numbers), NamedSharding(mesh, PartitionSpec()))


def what_compiles(config: TrainConfig) -> dict[str, Any]:
    """The config's description without its numbers and the folders that a run writes to: runs for which it is equal share their
    setup and their programs. A number that is 0 stays in, since a 0 can remove a term of the loss and everything the term
    reads."""
    description = describe(config)
    description[LOSS] = _without(description[LOSS], numbers_of(config.loss))
    description["optim"] = _without(description["optim"], {PEAK_LR: config.optim.peak_lr})
    return {name: value for name, value in description.items() if name not in ("output", "reference_store")}


def _without(description: dict[str, Any], numbers: Numbers) -> dict[str, Any]:
    """What is left of a part's description when its numbers are gone."""
    left = dict(description)
    for name, number in numbers.items():
        if isinstance(number, dict):
            left[name] = _without(description[name], number)
        elif number:
            del left[name]
    return left
