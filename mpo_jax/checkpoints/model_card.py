"""What does a reader of the exported model have to know? Its model card."""

import json
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


def public_name(name: str) -> str:
    """A hub name as it is; of a path only its last part, which says enough and no more."""
    return Path(name).name if "://" in name or Path(name).exists() else name


def model_card(description: dict[str, Any], *, languages: list[str], rows: int, metrics: dict[str, float], gaps: str) -> str:
    """README.md of an export. `description` is the resolved config, `metrics` those of the last update, `gaps` a table."""
    base, data = public_name(description["model"]), public_name(description["data"]["path"])
    hub_name = "/" in base
    shown = {**description, "model": base, "data": {**description["data"], "path": data}}
    for hidden in (
        "output",
        "checkpoint",
        "metrics",
        "reference_store",
        "compilation_cache",
        "profile",
    ):  # where a run was kept is nobody's business
        shown.pop(hidden, None)
    for name in ("eval_path", "texts"):
        if shown["data"].get(name):
            shown["data"][name] = public_name(shown["data"][name])
    front = ["---", "library_name: transformers", "pipeline_tag: text-generation", *([f"base_model: {base}"] if hub_name else [])]
    front += ["tags:", "- multilingual-safety", "- reward-gap-mpo", "language:", *(f"- {lang}" for lang in languages), "---"]
    parts = [
        "\n".join(front),
        f"# {base}, aligned with multilingual reward-gap MPO",
        f"Starting from `{base}`, the reward gap of each target language was trained onto the gap that the base model itself has "
        "in the row's dominant language, while the dominant language's hidden states were held in place: multilingual "
        "reward-gap MPO (ACL 2025, arXiv:2505.16869; not TRL's Mixed Preference Optimization). "
        f"Made with mpo_jax {__version__} on {rows} parallel preference rows of `{data}` ({', '.join(languages)}).",
        "## Reward gaps\n\nMean length-normalised reward gap in nats per token, log p(safe) - log p(unsafe), with 95 % "
        "bootstrap intervals.\n\n```\n" + gaps + "\n```",
        "## Last update\n\n```\n" + "\n".join(f"{name}: {value:.6g}" for name, value in sorted(metrics.items())) + "\n```",
        "## Limits\n\nA reward gap is a measure of preference between two given answers, not of what the model writes. Evaluate "
        "generations, in every language you serve, before relying on them.",
        "## Config\n\n```json\n" + json.dumps(shown, indent=1, ensure_ascii=False) + "\n```",
        "## Citation\n\n```bibtex\n" + CITATION + "\n```",
    ]
    return "\n\n".join(parts) + "\n"
