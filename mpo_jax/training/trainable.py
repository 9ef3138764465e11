"""Which parameters does a run train, and which are frozen? Two trees, each without the other's parameters.

All parameters are trained; or all but those that `frozen` names; or none of them, but an adapter beside them.
"""

from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from mpo_jax.errors import InputError
from mpo_jax.models.adapters import LoraConfig, abstract_adapter, prepared
from mpo_jax.models.decoder import Model, dotted
from mpo_jax.types import Params


def abstract_trainable(model: Model, frozen: str, lora: LoraConfig, mesh: Mesh | AbstractMesh | None = None) -> Params:
    """The shapes of what a run trains, float32. Errors: those of `split` and of `adapters.factors`."""
    return abstract_adapter(model, lora, mesh) if lora.rank else split(model.abstract(mesh), frozen)[0]


def frozen_part(params: Params, frozen: str, lora: LoraConfig) -> Params:
    """What a run does not train, of all of a model's parameters or of their shapes."""
    return prepared(params, lora) if lora.rank else split(params, frozen)[1]


def frozen_names(model: Model, frozen: str, lora: LoraConfig) -> set[str]:
    """The dotted names of the model's parameters that a run does not train."""
    return names(model.abstract() if lora.rank else split(model.abstract(), frozen)[1])


def split(params: Params, frozen: str) -> tuple[Params, Params]:
    """(trainable, frozen) parts of a tree of parameters or of their shapes; `joined` puts them together again. `frozen` names
    parameters and groups of them, separated by commas: "embedding,layers.attention". Errors: an unknown name; nothing left to
    train."""
    names = [name for name in frozen.split(",") if name]
    paths = [dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for name in names:
        if not any(_within(path, name) for path in paths):
            groups = sorted({path.rpartition(".")[0] or path for path in paths})
            raise InputError(f"frozen='{frozen}': this model has no parameters '{name}': choose from {', '.join(groups)}.")
    held = {path for path in paths if any(_within(path, name) for name in names)}
    if len(held) == len(paths):
        raise InputError(f"frozen='{frozen}' leaves nothing to train: name fewer parameters.")
    return _part(params, lambda path: path not in held), _part(params, lambda path: path in held)


def names(params: Params) -> set[str]:
    """The dotted names of a tree's parameters."""
    return {dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def _part(tree: Params, wanted: Any, path: str = "") -> Params:
    """The wanted leaves, without groups that this leaves empty."""
    parts = {}
    for key, value in tree.items():
        here = f"{path}.{key}" if path else key
        part = _part(value, wanted, here) if isinstance(value, dict) else value if wanted(here) else {}
        if not isinstance(part, dict) or part:
            parts[key] = part
    return parts
