"""What does a folder hold of a run? What training wrote, and what other commands measured of its model."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpo_jax.errors import InputError
from mpo_jax.reporting.facts import Answers, Figure, Measure, Run
from mpo_jax.reporting.kept_json import read_json, read_lines, understood
from mpo_jax.reporting.safety_files import read_safety
from mpo_jax.reporting.usefulness_files import perplexity, read_usefulness

DOMINANT = " (dominant)"
CURVES = ("loss", "eval_loss")  # and their parts, and gaps


def read_run(folder: Path, name: str, *, texts: bool) -> Run:
    """`texts`: also the answers of samples.jsonl. Errors: a folder that holds nothing of a run; a file of another shape."""
    config, audit = read_json(folder / "config.json"), read_json(folder / "audit.json") or {}
    gaps, perplexities = _gaps(folder / "reward_gap.json")
    curves = _curves(folder / "metrics.jsonl")
    usefulness = read_usefulness(folder)
    if perplexities is not None:
        usefulness = [*usefulness, perplexity(perplexities, gaps.dominant if gaps else ())]
    with understood(folder / "audit.json"):
        counted = {language: {key: int(count) for key, count in counts.items()} for language, counts in audit.items()}
    settings, written, lead = {}, "", ""
    if config is not None:
        with understood(folder / "config.json"):
            settings, written = _settings(config, counted, curves), _written(config)
            lead = f"{settings['method']}: {settings['length']}."
    answers = _answers(folder / "samples.jsonl") if texts else []
    run = Run(name, lead, settings, written, gaps, read_safety(folder), usefulness, curves, counted, answers)
    if not (config or gaps or run.safety or usefulness or curves):
        raise InputError(
            f"{folder} holds nothing of a run (config.json, reward_gap.json, metrics.jsonl, asr.json, utility.json): give the "
            "output folder of mpo_jax.train, reward_gap, safety or utility."
        )
    return run


def _gaps(path: Path) -> tuple[Measure | None, Mapping[str, Mapping[str, float]] | None]:
    kept = read_json(path)
    if kept is None:
        return None, None
    with understood(path):
        tables = {label: lines for label, lines in kept.items() if label != "perplexity"}
        of = {label: {line["name"].removesuffix(DOMINANT): _figure(line) for line in lines} for label, lines in tables.items()}
        names = dict.fromkeys(line["name"] for lines in tables.values() for line in lines)
        dominant = [name.removesuffix(DOMINANT) for name in names if name.endswith(DOMINANT)]
        rows = {line["name"].removesuffix(DOMINANT): line["count"] for lines in tables.values() for line in lines}
        counts = f"{min(rows.values())} to {max(rows.values())}" if len({*rows.values()}) > 1 else f"{max(rows.values())}"
        about = f"Of {counts} rows a language; intervals: 95 %, by a bootstrap over rows."
        goals = [figure.value for language, figure in next(iter(of.values())).items() if language in dominant]
        enough = sum(goals) / len(goals) if goals else math.inf
        gap = Measure("gap", "Reward gap", "nats", "higher", of, dominant=dominant, enough=enough, notes=[about])
        return gap, kept.get("perplexity")


def _figure(line: Any) -> Figure:
    return Figure(float(line["mean"]), float(line["low"]), float(line["high"]))


def _curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    lines = read_lines(path)
    found: dict[str, list[tuple[float, float]]] = {}
    with understood(path):
        for line in lines:
            for name, value in line.items():
                if name in CURVES or name.startswith(("loss/", "eval_gap/")):
                    found.setdefault(name, []).append((float(line["step"]), float(value)))
    return found


def _settings(config: Any, audit: Mapping[str, Mapping[str, int]], curves: Mapping[str, Any]) -> dict[str, str]:
    """What somebody asks first."""
    data, loss, optim = config["data"], dict(config["loss"]), config["optim"]
    rows = sum(counts.get("rows", 0) for counts in audit.values())
    updates = max((step for step, _ in curves.get("loss", [])), default=0)
    found = {
        "method": str(loss.pop("type")),
        "its numbers": ", ".join(f"{key} {value}" for key, value in loss.items() if not isinstance(value, dict | list)),
        "model": config["model"],
        "data": data["path"],
        "rows": f"{rows} in {', '.join(audit)}" if audit else "",
        "held out": data["eval_path"] or f"a share of {data['eval_fraction']:g}",
        "length": f"{updates:.0f} updates of {config['batch_size']} rows ({config['epochs']} epochs)",
        "learning rate": f"{optim['peak_lr']:g}, {optim['decay']}, {optim['kind']}",
        "computed in": str(config["compute_dtype"]),
        "frozen": config["frozen"],
        "adapter": _adapter(config.get("lora", {})),
    }
    return {name: str(value) for name, value in found.items() if value}


def _adapter(lora: Any) -> str:
    if not lora.get("rank"):
        return ""
    return f"LoRA of rank {lora['rank']}" + (f", started from {lora['start']}" if lora.get("start") else "")


def _written(config: Any, indent: str = "") -> str:
    lines = []
    for name, value in config.items():
        lines.append(f"{indent}{name}:" if isinstance(value, dict) else f"{indent}{name}: {value}")
        if isinstance(value, dict):
            lines.append(_written(value, indent + "  "))
    return "\n".join(lines)


def _answers(path: Path) -> list[Answers]:
    """To each prompt the first and the last answer."""
    found: dict[tuple[str, str, str], dict[int, str]] = {}
    lines = read_lines(path)
    with understood(path):
        for line in lines:
            cut = "" if line["stopped"] == "end" else " …"
            asked = found.setdefault((line["language"], line["id"], line["prompt"]), {})
            asked[int(line["step"])] = line["text"] + cut
    return [
        Answers(language, prompt, [(_when(step), answers[step]) for step in sorted({min(answers), max(answers)})])
        for (language, _, prompt), answers in found.items()
    ]


def _when(step: int) -> str:
    return f"after update {step}" if step else "before training"
