"""The folder of a small run, with everything that the page reads in the shapes that the commands write."""

import json
from pathlib import Path

LANGUAGES = ("ar", "sw")
HOSTILE = "<script>alert('ran')</script><img src=x onerror=alert(1)>{{ 7*7 }}</style>\"'&"


def interval(value: float, half: float = 0.1) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def gaps(level: float) -> list[dict]:
    names = ["en (dominant)", *LANGUAGES]
    means = [1.0, level, level + 0.1]
    return [
        {"name": name, "count": 30, "mean": mean, "low": mean - 0.05, "high": mean + 0.05}
        for name, mean in zip(names, means, strict=True)
    ]


def asr(before: float, after: float) -> dict:
    """As `python -m mpo_jax.safety` writes it."""
    models = {}
    for label, level in {"before": before, "after": after}.items():
        lines = [
            {
                "language": language,
                "exchanges": 100,
                "verdicts": {"safe": 90, "unsafe": 8, "invalid": 1},
                "unparsed": 1,
                "missing": {},
                "rates": {"asr": interval(level + i / 10, 0.03)},
            }
            for i, language in enumerate(("en", *LANGUAGES))
        ]
        models[label] = {"lines": lines, "average": {"asr": interval(level + 0.1, 0.02)}, "worst": "sw"}
    return {
        "judge": "made-up judge",
        "translator": "none",
        "shows": "attack success rate",
        "rates": {"asr": "ASR (unsafe)"},
        "models": models,
        "after minus before": {"asr": {"ar": interval(after - before), "average": interval(after - before)}},
        "findings in translations": {},
        "reward gap and rate": {
            "before": None,
            "after": {
                "languages": ["en", *LANGUAGES],
                "gaps": [1.0, 0.9, 0.9],
                "rates": [0.0, 0.1, 0.1],
                "spearman": interval(-0.5, 0.4),
                "pearson": interval(-0.6, 0.4),
            },
        },
        "agreement": {},
    }


def utility(before: float, after: float) -> dict:
    """As `python -m mpo_jax.utility` writes it."""
    scores = {}
    for label, value in {"before": before, "after": after}.items():
        known = {
            "metric": "exact_match",
            "stderr": 0.05,
            "n": 50,
            "unparsed": 2,
            "errors": 0,
            "part": "",
            "main": True,
            "better": "higher",
        }
        mine = [
            {"task": "mgsm", "language": language, "value": value, "low": value - 0.1, "high": value + 0.1, **known}
            for language in ("en", "sw")
        ]
        scores[label] = [*mine, {**mine[0], "part": "turn 1", "value": 0.123}, {**mine[0], "metric": "aside", "main": False}]
    changes = [
        {"task": "mgsm", "language": "en", "metric": "exact_match", "part": "", "value": after - before, "low": -0.2, "high": 0.2}
    ]
    return {"settings": {}, "scores": scores, "changes": changes}


def write_run(folder: Path, *, after: float = 0.9, loss: str = "Mpo", text: str = "a mild answer") -> Path:
    """A run whose gaps, rates, scores, curves, counts and answers are made up; `text` is an answer, a setting and more."""
    folder.mkdir(parents=True)
    config = {
        "type": "TrainConfig",
        "model": text,
        "data": {"type": "DataConfig", "path": "train.jsonl", "eval_path": "held_out.jsonl", "eval_fraction": 0.0},
        "loss": {"type": loss, "beta": 1.0},
        "optim": {"type": "OptimConfig", "kind": "adamw", "peak_lr": 5e-4, "decay": "cosine"},
        "epochs": 2,
        "batch_size": 8,
        "compute_dtype": "float32",
        "frozen": "",
    }
    metrics = [{"step": 0, "eval_loss": 2.0, "eval_gap/sw": 0.0, "eval_gap/goal": 1.0}]
    metrics += [{"step": k, "loss": 1 / k, "loss/gap": 0.5 / k, "loss/retain": 1e-12} for k in range(1, 1001)]
    metrics += [{"step": 1000, "eval_loss": 0.1, "eval_gap/sw": 0.9, "eval_gap/goal": 1.0}]
    samples = [
        {"step": step, "id": "1", "language": language, "prompt": f"Ask {text}", "text": text, "stopped": "end", "new_tokens": 3}
        for step in (0, 10, 1000)
        for language in LANGUAGES
    ]
    perplexity = {"before": {"en": 1.1, "sw": 1.2}, "after": {"en": 1.1, "sw": 1.3}}
    files = {
        "config.json": config,
        "audit.json": {language: {"rows": 90, "duplicates": i, "html_entities": 0} for i, language in enumerate(LANGUAGES)},
        "reward_gap.json": {"before": gaps(-0.1), "after": gaps(after), "perplexity": perplexity},
        "asr.json": asr(0.4, 0.1),
        "utility.json": utility(0.5, 0.52),
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    for name, lines in {"metrics.jsonl": metrics, "samples.jsonl": samples}.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder
