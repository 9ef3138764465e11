"""Which parameters does a run train, and which are frozen? Two trees, each without the other's parameters.

All parameters are trained; or all but those that `frozen` names; or none of them, but an adapter beside them.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from mpo_jax.errors import InputError
from mpo_jax.models.adapters import LoraConfig, abstract_adapter, prepared
from mpo_jax.models.decoder import Model, dotted
from mpo_jax.models.parameters import LAYERS, TOP, cut
from mpo_jax.types import Params

LOWER = re.compile(r"layers:(\d+)")


def abstract_trainable(model: Model, frozen: str, lora: LoraConfig, mesh: Mesh | AbstractMesh | None = None) -> Params:
    """The shapes of what a run trains, float32. Errors: those of `split` and of `adapters.factors`; layers that alternate, cut
    within a period."""
    if lora.rank:
        return abstract_adapter(model, lora, mesh)
    if (first := first_of(frozen)) % (repeats := model.config.together):
        raise InputError(
            f"frozen='{frozen}': this model's layers alternate, so N of layers:{first} must be a multiple of {repeats}."
        )
    return split(model.abstract(mesh), frozen)[0]


def frozen_part(params: Params, frozen: str, lora: LoraConfig) -> Params:
    """What a run does not train, of all of a model's parameters or of their shapes."""
    return prepared(params, lora) if lora.rank else split(params, frozen)[1]


def frozen_weights(model: Model, frozen: str, lora: LoraConfig) -> Params:
    """The shapes of the model's parameters that a run does not train."""
    return model.abstract() if lora.rank else split(model.abstract(), frozen)[1]


def loaded(load: Callable[..., Params], dtype: Any, part: Params, layers: int) -> Params:
    """A part of a model with so many layers, which is given by its shapes. `load(dtype, names, numbers)` loads the parameters
    with these dotted names, and of their layers those with these numbers."""
    below = {name: x for name, x in part.items() if name != TOP}
    found = load(dtype, names(below), range(_count(below[LAYERS]) if LAYERS in below else layers)) if below else {}
    if TOP in part:
        upper = range(layers - _count(part[TOP]), layers)
        found[TOP] = load(dtype, names({LAYERS: part[TOP]}), upper)[LAYERS]
    return found


def _count(stack: Params) -> int:
    return jax.tree.leaves(stack)[0].shape[0]


def split(params: Params, frozen: str) -> tuple[Params, Params]:
    """(trainable, frozen) parts of a tree of parameters or of their shapes; `joined` puts them together again. `frozen` names
    parameters and groups of them, separated by commas: "embedding,layers.attention". The unembedding of a tied model is its
    embedding. "layers:30" are the first 30 layers; the others are then a stack of their own. Errors: an unknown name; as many
    layers as there are; nothing left to train."""
    names, first = [name for name in frozen.split(",") if name and not LOWER.fullmatch(name)], first_of(frozen)
    if first:
        if first >= (count := _count(params[LAYERS])):
            raise InputError(f"frozen='{frozen}': this model has {count} layers, so N of layers:{first} must be below that.")
        params = cut(params, first)
    if "unembedding" not in params:  # it is the embedding
        names = ["embedding" if name == "unembedding" else name for name in names]
    paths = [dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for name in names:
        if not any(_within(path, name) for path in paths):
            groups = sorted({path.rpartition(".")[0] or path for path in paths})
            raise InputError(f"frozen='{frozen}': this model has no parameters '{name}': choose from {', '.join(groups)}.")
    held = {path for path in paths if any(_within(path, name) for name in names) or (first and path.startswith(f"{LAYERS}."))}
    if len(held) == len(paths):
        raise InputError(f"frozen='{frozen}' leaves nothing to train: name fewer parameters.")
    return _part(params, lambda path: path not in held), _part(params, lambda path: path in held)


def names(params: Params) -> set[str]:
    """The dotted names of a tree's parameters."""
    return {dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}


def first_of(frozen: str) -> int:
    """How many of the first layers `frozen` names as "layers:N", 0 where it does not. Errors: that it does so twice."""
    found = [int(match[1]) for name in frozen.split(",") if (match := LOWER.fullmatch(name))]
    if len(found) > 1:
        raise InputError(f"frozen='{frozen}' names the first layers twice: write layers:N once.")
    return found[0] if found else 0


def _within(path: str, name: str) -> bool:
    path = LAYERS + path.removeprefix(TOP) if path.startswith(TOP) else path  # a name of all layers is one of the upper ones too
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
