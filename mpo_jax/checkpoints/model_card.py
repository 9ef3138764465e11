"""What must a reader of an exported model know? Writes its model card."""

import json
import re
from pathlib import Path
from typing import Any

from mpo_jax import __version__

CITATION = """@inproceedings{zhao-etal-2025-mpo,
  title = "{MPO}: Multilingual Safety Alignment via Reward Gap Optimization",
  author = "Zhao, Weixiang and Hu, Yulin and Deng, Yang and Wu, Tongtong and Zhang, Wenxuan and Guo, Jiahe and
            Zhang, An and Zhao, Yanyan and Qin, Bing and Chua, Tat-Seng and Liu, Ting",
  booktitle = "Proceedings of the 63rd Annual Meeting of the Association for Computational Linguistics (Volume 1: Long Papers)",
  year = "2025",
  doi = "10.18653/v1/2025.acl-long.1149",
}"""


# The settings that decide what was learnt. The others (where a run wrote, on which devices, how often it evaluated) stay out of
# the card, and so does a new setting until it is added here.
LEARNT = ("model", "data", "loss", "optim", "epochs", "batch_size", "seed", "frozen", "lora")
LEARNT += ("compute_dtype", "reference_dtype", "reference", "reference_model")

SAMPLES = "What the model wrote to the first sampled request of each language, always taking the most probable token."

_ON_HUB = re.compile(r"\w[\w.-]*(/[\w.-]+)?(@\w[\w./-]*)?(:[\w.\[\]%:+-]+)?")


def public_name(name: str) -> str:
    """A hub name as it is, with its revision and split; of a path, on any system, only the last part."""
    if _ON_HUB.fullmatch(name) and ".json" not in name and not Path(name).exists():
        return name
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return "a local folder" if last.startswith("~") else last


def _public(value: Any) -> Any:
    """The same settings without paths."""
    if isinstance(value, dict):
        return {name: _public(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_public(part) for part in value]
    return public_name(value) if isinstance(value, str) else value


def model_card(
    description: dict[str, Any],
    *,
    languages: list[str],
    rows: int,
    metrics: dict[str, float],
    gaps: str,
    measured_rows: str,
    samples: str,
    changes: str,
) -> str:
    """README.md of an export. `description` is the resolved config, `metrics` those of the last update, `gaps` a table of
    `measured_rows`, as in "64 of 600 training rows", `samples` answers before and after, "" where none were written, `changes`
    how the weights differ from the original model's."""
    shown = _public({name: description[name] for name in LEARNT})
    shown["optim"].pop("offload")
    base, data = shown["model"], shown["data"]["path"]
    name = base.partition("@")[0]
    front = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    front += [f"base_model: {name}"] if "/" in name else []
    front += ["tags:", "- multilingual-safety", "- reward-gap-mpo", "language:", *(f"- {lang}" for lang in languages), "---"]
    parts = [
        "\n".join(front),
        f"# {name}, aligned with multilingual reward-gap MPO",
        f"`{base}`, trained with multilingual reward-gap MPO (ACL 2025, arXiv:2505.16869; not TRL's Mixed Preference "
        "Optimization): the reward gap of each target language was pulled to the gap that the base model has in the row's "
        "dominant language, while the hidden states of the dominant language were held in place. "
        f"Made with mpo_jax {__version__} on {rows} parallel preference rows of `{data}` ({', '.join(languages)}).",
        "## Reward gaps\n\nMean length-normalised reward gap in nats per token, log p(safe) - log p(unsafe), on "
        f"{measured_rows}, with 95 % bootstrap intervals.\n\n```\n" + gaps + "\n```",
        f"## Weights\n\n{changes}.",
        *([f"## Samples\n\n{SAMPLES}\n\n```\n{samples}\n```"] if samples else []),
        "## Last update\n\n```\n" + "\n".join(f"{name}: {value:.6g}" for name, value in sorted(metrics.items())) + "\n```",
        "## Limits\n\nA reward gap measures a preference between two given answers, not what the model writes. Evaluate "
        "generations in every language you serve before you rely on the model.",
        "## Config\n\nThe settings that decided what was learnt.\n\n```json\n"
        + json.dumps(shown, indent=1, ensure_ascii=False)
        + "\n```",
        "## Citation\n\n```bibtex\n" + CITATION + "\n```",
    ]
    return "\n\n".join(parts) + "\n"
