"""Which numbers of a run may be arguments of its compiled step? Runs that differ in these alone share one program."""

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

from mpo_jax.training.config import TrainConfig

LEARNING_RATE = "optim.peak_lr"
Numbers = dict[str, Any]  # path in the config, as in "loss.beta" -> float, or the argument that stands for it


def numbers_of(config: TrainConfig, paths: Iterable[str]) -> dict[str, float]:
    """Those of `paths` that may be arguments, with their values: the floats of the loss, and the peak learning rate. What is 0
    may not, since it can leave out a part of the loss with all that this part reads; nothing may where moments wait on the host,
    whose step is two programs."""
    if config.optim.offload:
        return {}
    found = {path: value_of(config, path) for path in paths if path == LEARNING_RATE or path.startswith("loss.")}
    return {path: value for path, value in found.items() if isinstance(value, float) and value}


def with_numbers(config: TrainConfig, numbers: Numbers) -> TrainConfig:
    """The config with these in their places. Nothing is checked: an argument has no value yet."""
    for path, number in numbers.items():
        config = _with(config, path.split("."), number)
    return config


def value_of(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = config[name] if isinstance(config, dict) else getattr(config, name)
    return config


def _with(part: Any, path: list[str], number: Any) -> Any:
    name, *rest = path
    value = _with(value_of(part, name), rest, number) if rest else number
    if isinstance(part, dict):
        return part | {name: value}
    assert dataclasses.is_dataclass(part), f"{name} of {part}"
    changed = copy.copy(part)
    setattr(changed, name, value)
    return changed
