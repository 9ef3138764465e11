"""What does a variant of a config change? `configs/llama31.py:dpo` names the changes that make a published run of it.

`official` is what the authors' code does, `paper` what the paper says where the two differ (arXiv:2505.16869, section 3 and
appendix). `lora` trains an adapter. The other names are the methods and ablations that the paper compares. Several can be joined
by '+', as in `paper+mpo_no_ln`; they apply in order.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from mpo_jax import losses
from mpo_jax.errors import InputError
from mpo_jax.training.config import TrainConfig

# Field -> its new value, or a mapping of the part's fields that change. A function gives the new value from the old one.
Changes = Mapping[str, Any]
# An adapter learns at a higher rate than the whole model (docs/lora.md has what was tried).
LORA_LR = 4

PRESETS: dict[str, Changes] = {
    "official": {
        "data": {"template": "authors", "truncation": "official", "max_length": 1024, "eval_fraction": 0.0},
        "loss": {"retain_pooling": "mean_padded", "retain_reduction": "mean"},
    },
    "paper": {
        "data": {"max_length": 2048, "eval_fraction": 0.0},
        "loss": {"retain_pooling": "last_prompt", "retain_reduction": "sum"},
    },
    "lora": {"lora": {"rank": 16, "alpha": 32.0}, "optim": {"peak_lr": lambda full: LORA_LR * full}},
}

# As in the authors' script; the layers below the last two are frozen, and all that is no layer.
LENS: dict[str, Any] = {
    "loss": losses.Lens(),
    "optim": {"peak_lr": 1e-5, "warmup": 0.05, "weight_decay": 0.1},
    "epochs": 1,
}

# The paper trains the baselines on the target pairs and the distinct dominant pairs together, 700 in the authors' data. Its grids
# of their settings are in docs/objectives.md; which values it chose is not published, so the classes' defaults are used.
BASELINES = {
    "sft": losses.Sft,
    "dpo": losses.Dpo,
    "ipo": losses.Ipo,
    "robust_dpo": losses.RobustDpo,
    "cpo": losses.Cpo,
    "kto": losses.Kto,
    "orpo": losses.Orpo,
    "length_regularized_dpo": losses.LengthRegularizedDpo,
    "simpo": losses.Simpo,
}

ABLATIONS: dict[str, Changes] = {
    "mpo_no_ln": {"loss": {"rg_normalize": False}},
    "mpo_policy": {"loss": {"gap_target": "policy"}},
    "mpo_no_retain": {"loss": {"retain": 0.0}},
    "mpo_kl_of_policy": {"loss": {"retain_by": "kl_of_policy"}},
    "mpo_kl_of_reference": {"loss": {"retain_by": "kl_of_reference"}},
}

# Methods that read the states of prompts, of which MLC is a term that is added to any other; and self-distillation, which is SFT
# on data of a certain kind (docs/objectives.md).
OTHERS: dict[str, Changes] = {
    "cla": {"loss": losses.Cla()},
    "mlc": {"loss": lambda method: losses.Sum({"method": method, "mlc": losses.Mlc()}, weights={"mlc": 0.8}), "batch_size": 12},
    "sdrrl": {"loss": losses.Sft(reduction="token_mean"), "data": {"pairs": "both"}},
}

# Variants with a value, as in `mpo_constant=1.58`.
WITH_VALUE: dict[str, tuple[str, Callable[[str], Changes]]] = {
    "mpo_constant": ("1.58", lambda value: {"loss": {"gap_target": value}}),
    "mpo_language": ("ar", lambda value: {"loss": {"gap_target": value}}),
    "lens": ("30", lambda first: LENS | {"frozen": f"layers:{first},embedding,final_norm,unembedding"}),
}


def variant_of(config: TrainConfig, variant: str | None) -> TrainConfig:
    """The config with the changes that `variant` names. Errors: an unknown name; a setting that the loss does not have."""
    for name in variant.split("+") if variant else ():
        config = _changed(config, name, _changes(name))
    return config


def _changes(name: str) -> Changes:
    stem, _, value = name.partition("=")
    if stem in WITH_VALUE:
        example, changes = WITH_VALUE[stem]
        if not value:
            raise InputError(f"The config variant '{stem}' needs a value: write {stem}={example}, for example.")
        return changes(value)
    if name in BASELINES:
        return {"loss": BASELINES[name](), "data": {"pairs": "both"}}
    fixed = PRESETS | ABLATIONS | OTHERS
    if name not in fixed:
        known = [*fixed, *BASELINES, *(f"{stem}={example}" for stem, (example, _) in WITH_VALUE.items())]
        raise InputError(f"The config variant '{name}' is not known: write one of {', '.join(known)}, or none.")
    return fixed[name]


def _changed(config: TrainConfig, name: str, changes: Changes) -> TrainConfig:
    fields = {}
    for part, change in changes.items():
        old = getattr(config, part)
        if isinstance(change, Mapping):
            if lacking := [field for field in change if not hasattr(old, field)]:
                without = type(old).__name__
                raise InputError(
                    f"The config variant '{name}' sets {part}.{lacking[0]}, which {without} does not have: leave out '{name}' "
                    f"or the variant that chose {without}."
                )
            new = {field: value(getattr(old, field)) if callable(value) else value for field, value in change.items()}
            change = dataclasses.replace(old, **new)
        fields[part] = change(old) if isinstance(change, FunctionType) else change
    return dataclasses.replace(config, **fields)
