"""How is an adapter kept so that PEFT and vLLM read it? As PEFT's own folder: adapter_config.json and adapter_model.safetensors.

PEFT stores A as [r, in] and B as [out, r] of each projection of each layer, under the name of the weight's module.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from safetensors.numpy import save_file

from mpo_jax.checkpoints.export_folder import check_export_dir, whole_folder
from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.checkpoints.safetensors_files import Stored, tensors_of
from mpo_jax.devices import processes
from mpo_jax.devices.sharding import host_to_global
from mpo_jax.errors import InputError
from mpo_jax.files.paths import path_of, written_locally
from mpo_jax.models.adapters import PROJECTIONS, LoraConfig, abstract_adapter, factors, merged, prepared
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.base import Family
from mpo_jax.models.parameters import joined
from mpo_jax.models.weight_table import to_host
from mpo_jax.types import Params

ADAPTER_FILES = CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# What PEFT's LoRA can do and ours cannot: the key of its config, and the values at which it does nothing. Of the ways to draw the
# first factors, those that change the base's weights (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) are refused: without that base the
# adapter is another one. PEFT writes `true` instead where it has converted the adapter to the original base.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "modules_to_save": (None, []),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layers_to_transform": (None,),
    "layer_replication": (None,),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, []),
    "exclude_modules": (None, []),
    "fan_in_fan_out": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (None,),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "mica"),
}


def save_adapter(adapter: Params, out_dir: Path | str, *, model: Model, family: Family, config: LoraConfig, base: str) -> None:
    """Writes the folder, in float32. `base`: the name of the model that the adapter belongs to. On several hosts each must call
    this, and the first one writes. Errors: as in `check_export_dir`."""
    out_dir = path_of(out_dir)
    processes.on_first(lambda: check_export_dir(out_dir))
    tensors = named(jax.tree.map(to_host, adapter), model, family, config)
    if not processes.first():
        return
    description = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,
        "use_rslora": config.rslora,
        "target_modules": list(config.names),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    with whole_folder(out_dir) as partial:
        with written_locally(partial / WEIGHTS) as file:
            save_file(tensors, file, metadata={"format": "pt"})
        (partial / CONFIG).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def named(adapter: Params, model: Model, family: Family, config: LoraConfig) -> dict[str, np.ndarray]:
    """An adapter's arrays, or anything shaped like them, on the host, by PEFT's names and in its shapes."""
    tensors = {}
    for name, module in _modules(model, family, config).items():
        group, weight = PROJECTIONS[name]
        a, b = (adapter["layers"][group][weight][factor] for factor in "ab")
        for layer in range(model.config.layers):
            where = PREFIX + module.format(layer=layer)
            tensors[f"{where}.lora_A.weight"] = np.ascontiguousarray(a[layer].reshape(-1, config.rank).T)
            tensors[f"{where}.lora_B.weight"] = np.ascontiguousarray(b[layer].reshape(config.rank, -1).T)
    return tensors


def read_lora_config(folder: Path | str) -> LoraConfig:
    """Errors: no PEFT folder, another kind of adapter, or something that our adapters do not have."""
    path = path_of(folder) / CONFIG
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): give the folder of an adapter that PEFT saved.") from None
    kind = given.get("peft_type") if isinstance(given, dict) else None
    if kind != "LORA":
        raise InputError(f"{path} has 'peft_type': {kind!r}: give an adapter of the kind 'LORA'.")
    for key, nothing in UNSUPPORTED.items():
        if key in given and given[key] not in nothing:
            raise InputError(f"{path} has {key!r}: {given[key]!r}, which is not supported: merge this adapter with PEFT first.")
    targets = given.get("target_modules")
    if not isinstance(targets, list) or not targets or set(targets) - set(PROJECTIONS):
        raise InputError(f"{path} has 'target_modules': {targets!r}: give an adapter of {', '.join(PROJECTIONS)} alone.")
    try:
        return LoraConfig(int(given["r"]), float(given["lora_alpha"]), ",".join(targets), bool(given.get("use_rslora", False)))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} has no usable 'r' and 'lora_alpha' ({error}): give an adapter that PEFT saved.") from None


def with_start(given: LoraConfig) -> LoraConfig:
    """The settings of an adapter that starts as the one in the folder `given.start`: the folder's own. Errors: those of
    `read_lora_config`; a setting that is neither the folder's nor left at its default."""
    assert given.start is not None
    found = dataclasses.replace(read_lora_config(given.start), start=given.start)
    for name in ("rank", "alpha", "names", "rslora"):
        asked, theirs = getattr(given, name), getattr(found, name)
        if asked not in (theirs, getattr(LoraConfig(), name)):
            setting = "targets" if name == "names" else name
            asked, theirs = (",".join(x) if isinstance(x, tuple) else x for x in (asked, theirs))
            raise InputError(
                f"lora.{setting}={asked} contradicts lora.start='{given.start}', an adapter with {setting}={theirs}: leave "
                f"lora.{setting} out or write that."
            )
    return found


def load_adapter(folder: Path | str, model: Model, family: Family, mesh: Mesh) -> tuple[LoraConfig, Params]:
    """(its settings, the adapter in float32 on the mesh). Errors: those of `read_lora_config`; an adapter of another model, whose
    names or shapes are not this one's; a value that is not finite."""
    config = read_lora_config(folder)
    path = path_of(folder) / WEIGHTS
    stored, wanted = tensors_of(path), abstract_adapter(model, config, mesh)
    known = {f.name: f for f in factors(model, config)}
    tree: dict[str, dict[str, Any]] = {}
    for name, module in _modules(model, family, config).items():
        group, weight = PROJECTIONS[name]
        stacks: dict[str, list[np.ndarray]] = {"a": [], "b": []}
        for layer in range(model.config.layers):
            for factor, shape in (("a", known[name].a_shape[1:]), ("b", known[name].b_shape[1:])):
                tensor = f"{PREFIX}{module.format(layer=layer)}.lora_{factor.upper()}.weight"
                stacks[factor].append(_tensor(path, stored, tensor, shape, config.rank, factor))
        tree.setdefault(group, {})[weight] = {factor: np.stack(layers) for factor, layers in stacks.items()}
    if stored:
        raise InputError(f"{path} has the tensor {sorted(stored)[0]}, which this model has no place for: is it another model's?")
    axes = {f.path: {"a": f.a_axes, "b": f.b_axes} for f in known.values()}
    for (group, weight), of in axes.items():
        for factor in "ab":
            tree[group][weight][factor] = host_to_global(tree[group][weight][factor], mesh, of[factor])
    assert jax.tree.structure({"layers": tree}) == jax.tree.structure(wanted)
    return config, {"layers": tree}


def load_with_adapter(
    model_dir: Path, model: Model, family: Family, mesh: Mesh, dtype: Any, adapter: Path | str | None
) -> Params:
    """A model's parameters, with an adapter merged into them where one is given. Errors: those of the model and the adapter."""
    if adapter is None:
        return load_params(model_dir, model, family, mesh, dtype)
    config, factors_of_it = load_adapter(adapter, model, family, mesh)
    return merged(joined(factors_of_it, prepared(load_params(model_dir, model, family, mesh, dtype), config)))


def _tensor(path: Path, stored: dict[str, Stored], name: str, shape: tuple[int, ...], rank: int, factor: str) -> np.ndarray:
    """One factor of one layer, in our shape; it is taken out of `stored`."""
    found = stored.pop(name, None)
    if found is None:
        raise InputError(f"{path} has no tensor {name}: give an adapter that was made for this model.")
    full = int(np.prod(shape)) // rank
    if found.shape != ((rank, full) if factor == "a" else (full, rank)):
        raise InputError(f"{path}: {name} has the shape {found.shape}, which does not fit this model: is it another model's?")
    values = found[(slice(None), slice(None))].astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: {name} has values that are not finite: train the adapter again.")
    return values.T.reshape(shape)


def _modules(model: Model, family: Family, config: LoraConfig) -> dict[str, str]:
    """Projection -> the name of its module, with "{layer}"."""
    names = {weight.ours: weight.hf.removesuffix(".weight") for weight in family.weights(model.config)}
    return {name: names["layers." + ".".join(PROJECTIONS[name])] for name in config.names}
