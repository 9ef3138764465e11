"""What must a reader of an edited model know? Writes its model card."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from mpo_jax import __version__
from mpo_jax.checkpoints.model_card import public_name
from mpo_jax.editing.layer_edit import EditConfig, MatrixEdit


def card(about: Mapping[str, Any], config: EditConfig, edits: Mapping[int, Mapping[str, MatrixEdit]]) -> str:
    """README.md of the edited model. `about`: "model", its name; "languages", the dominant one first; "harmful" and "harmless",
    how many prompts of each language."""
    name, languages = public_name(about["model"]), list(about["languages"])
    base = name.partition("@")[0]
    front = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    front += [f"base_model: {base}"] if "/" in base else []
    front += ["tags:", "- multilingual-safety", "- weight-editing", "language:", *(f"- {code}" for code in languages), "---"]
    matrices = [edit for of_layer in edits.values() for edit in of_layer.values()]
    neurons = sum(len(edit.neurons) for edit in matrices)
    rank = "full rank" if config.rank is None else f"rank {config.rank}"
    parts = [
        "\n".join(front),
        f"# {base}, edited for safety in {', '.join(languages[1:])}",
        f"`{name}` with its MLPs' gate and up projections edited by Sparse Weight Editing (arXiv:2602.22554), without training. "
        f"On {about['harmful']} harmful prompts of each language, the neurons that answer to harm in '{languages[0]}' are drawn "
        f"to what they do there, by a change of {rank}, while {about['harmless']} harmless prompts of each language "
        f"hold them in place. Made with mpo_jax {__version__}.",
        f"{neurons:,} neurons in {len(matrices)} matrices of {len(edits)} layers ({_ranges(sorted(edits))}) were edited. All "
        "other weights are those of the original.",
        "## Limits\n\nThe edit was made for the prompts that it saw. Measure refusals, answers and general ability in every "
        "language you serve before you rely on the model.",
        "## Settings\n\n```json\n" + json.dumps(dataclasses.asdict(config), indent=1) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"."""
    spans: list[list[int]] = []
    for n in numbers:
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in spans)
