"""Are two runs the same computation? They are if their settings, their rows and their model files agree."""

import dataclasses
from typing import Any

from mpo_jax.data.dataset import Data
from mpo_jax.files.json_files import differences, filled
from mpo_jax.training.config import TrainConfig, defaults, describe

# Settings that may change between a run and its continuation: where it writes, how often it evaluates, what it answers, which
# devices it uses.
FREE = ("output", "checkpoint", "metrics", "export", "eval_every", "mesh", "microbatches", "reference_store")
FREE += ("remat", "logits", "kept_gb", "samples", "compilation_cache", "profile", "hosts")
# Further ones within the other settings: the paths of the data, of an adapter to start from and of a probe, whose contents are
# compared instead, where tokens are kept, and where moments are.
FREE_WITHIN = {"data": ("path", "eval_path", "texts", "cache"), "lora": ("start",), "loss": ("probe",), "optim": ("offload",)}


@dataclasses.dataclass(frozen=True)
class Identity:
    """What identifies a run. `facts`, as JSON: its settings, the contents of its data, the digests of its model's files, and
    under "defaults" the default of each setting."""

    facts: dict[str, Any]

    def differences(self, kept: dict[str, Any]) -> list[str]:
        """One phrase for each difference from the facts of another run. The two may come from different versions of this program:
        a setting that one of them does not have counts as having its default. So a setting that no longer exists is a difference
        only where it had another value."""
        theirs = filled(_compared(kept), _compared(self.facts["defaults"]))
        ours = filled(_compared(self.facts), _compared(kept.get("defaults", {})))
        return differences(theirs, ours)


def identity(config: TrainConfig, data: Data, model_files: dict[str, str]) -> Identity:
    """`model_files`: the digests of the model's files by name."""
    read = {"rows": data.train, "held-out rows": data.held_out, "texts": data.texts}
    facts = _compared(describe(config)) | {
        "contents": {name: pipeline.contents for name, pipeline in read.items() if pipeline is not None},
        "model files": {name: value[:16] for name, value in model_files.items()},
        "defaults": _compared(defaults(config)),
    }
    return Identity(facts)


def _compared(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts without what may differ, whichever version wrote them."""
    found = {name: value for name, value in facts.items() if name not in (*FREE, "model", "reference_model", "defaults")}
    for part, names in FREE_WITHIN.items():
        if part in found:
            found[part] = {name: value for name, value in found[part].items() if name not in names}
    return found
