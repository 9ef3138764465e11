"""What makes two runs the same computation? Their settings, the rows they read, and the files of their model."""

import dataclasses
import hashlib
from typing import Any

from mpo_jax.data.dataset import Data
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.files.json_files import differences, filled
from mpo_jax.scoring.reference import digest
from mpo_jax.training.config import TrainConfig, defaults, describe

# Where a run writes, how often it looks, which devices it uses.
FREE = ("output", "checkpoint", "metrics", "export", "eval_every", "mesh", "remat", "microbatches", "reference_store")
FREE += ("compilation_cache", "profile", "hosts")
# Of the other settings: where model and data lie, since what lies there is compared instead, and where moments wait.
FREE_WITHIN = {"data": ("path", "eval_path", "texts"), "optim": ("offload",)}


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a run is. `facts`, as JSON: its settings, the contents of its data, the digests of its model's files, and under
    "defaults" what the settings would be if nobody had set them."""

    facts: dict[str, Any]

    def differences(self, kept: dict[str, Any]) -> list[str]:
        """From the facts of another run, a phrase each. The two may be of different versions of this program: a setting that one
        of them does not have counts as its default in the other, so a setting that is gone is a difference only where it had
        been set to something else."""
        theirs = filled(_compared(kept), _compared(self.facts["defaults"]))
        ours = filled(_compared(self.facts), _compared(kept.get("defaults", {})))
        return differences(theirs, ours)


def identity(config: TrainConfig, data: Data, model_files: dict[str, str]) -> Identity:
    """`model_files`: the digests of the model's files by name."""
    read = {"rows": data.train, "held-out rows": data.held_out, "texts": data.texts}
    facts = _compared(describe(config)) | {
        "contents": {name: _contents(pipeline) for name, pipeline in read.items() if pipeline is not None},
        "model files": {name: value[:16] for name, value in model_files.items()},
        "defaults": _compared(defaults(config)),
    }
    return Identity(facts)


def _compared(facts: dict[str, Any]) -> dict[str, Any]:
    """Without what makes no other run, whichever version wrote it."""
    found = {name: value for name, value in facts.items() if name not in (*FREE, "model", "defaults")}
    for part, names in FREE_WITHIN.items():
        if part in found:
            found[part] = {name: value for name, value in found[part].items() if name not in names}
    return found


def _contents(pipeline: Pipeline) -> str:
    """Names the tokens of the rows, in their order: so it knows a data set of the hub as well as a file."""
    named = hashlib.blake2b(digest_size=8)
    for example in pipeline.examples:
        pairs = (example.source, example.target, example.mismatch, example.parallel)
        named.update(b"".join([example.language.encode(), *(b"none" if pair is None else digest(pair) for pair in pairs)]))
    return f"{len(pipeline.examples)} with digest {named.hexdigest()}"
