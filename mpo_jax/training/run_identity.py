"""What makes two runs the same computation? Their settings, the rows they read, and the files of their model."""

import hashlib
from typing import Any

from mpo_jax.data.dataset import Data
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.scoring.reference import digest

# Where a run writes, how often it looks, which devices it uses.
FREE = ("output", "checkpoint", "metrics", "export", "eval_every", "mesh", "remat", "microbatches", "reference_store")
FREE += ("compilation_cache", "profile", "hosts")


def identity(description: dict[str, Any], data: Data, model_files: dict[str, str]) -> dict[str, Any]:
    """As JSON. `description` is the config's (`config.describe`), `model_files` the digests of the model's files by name."""
    optim = {name: value for name, value in description["optim"].items() if name != "offload"}
    settings = {name: value for name, value in description.items() if name not in FREE} | {"optim": optim}
    read = {"rows": data.train, "held-out rows": data.held_out, "texts": data.texts}
    return settings | {
        "contents": {name: _contents(pipeline) for name, pipeline in read.items() if pipeline is not None},
        "model files": {name: value[:16] for name, value in model_files.items()},
    }


def _contents(pipeline: Pipeline) -> str:
    """Names the tokens of the rows, in their order: so it knows a data set of the hub as well as a file."""
    named = hashlib.blake2b(digest_size=8)
    for example in pipeline.examples:
        pairs = (example.source, example.target, example.mismatch, example.parallel)
        named.update(b"".join([example.language.encode(), *(b"none" if pair is None else digest(pair) for pair in pairs)]))
    return f"{len(pipeline.examples)} with digest {named.hexdigest()}"
