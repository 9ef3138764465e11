"""Builds of rows by recipe, for tests: mild prompts, and the options of the command with everybody at one address."""

import json
from pathlib import Path

import numpy as np
from fake_endpoint import MODEL
from safetensors.numpy import load_file, save_file

QUESTIONS = ("How do I make tea", "Who repairs old bicycles", "Where do swallows sleep", "Why is bread salted")
LANGUAGES = ("sw", "bn")


def write_prompts(path: Path, count: int = 8) -> Path:
    """Of some there are Swahili prompts, and all have an answer that should not be given."""
    lines = []
    for n in range(count):
        text = f"{QUESTIONS[n % 4]}, question {n}?"
        lines.append({"id": f"q{n}", "language": "en", "prompt": text, "rejected": f"Do as you please with the number {n}."})
        if n % 4 == 0:
            lines.append({"id": f"q{n}", "language": "sw", "prompt": f"Maneno ya swali hili ni yapi, namba {n}?"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def other_model(world: Path, folder: Path) -> Path:
    """The toy model with other weights."""
    folder.mkdir()
    for path in (world / "model").iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    random = np.random.default_rng(1)
    weights = load_file(world / "model" / "model.safetensors")
    moved = {name: x + 0.02 * random.standard_normal(x.shape).astype(x.dtype) for name, x in weights.items()}
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def voices(url: str | None) -> list[str]:
    """Everybody on one server; without one they are in a recording."""
    named = [
        "--served-model",
        MODEL,
        "--translate",
        "server",
        "--translate-model",
        MODEL,
        "--judge",
        "deng",
        "--judge-model",
        MODEL,
    ]
    return named + ([] if url is None else ["--server", url, "--translate-server", url, "--judge-server", url])


def options(recipe: str, world: Path, url: str | None) -> list[str]:
    """Of each recipe, small."""
    chat = ["--chat"] if url is not None else []
    here = ["--model", str(world / "model"), "--template", "hf"]
    return {
        "on_policy": [*voices(url), *chat],
        "lidr": [*voices(url), *here],
        "icr": [*voices(url), *here, "--samples", "3", "--numerator", str(world / "model"), "--dtype", "float32"],
        "mapo": [*voices(url), *chat, "--samples", "3", "--scorer-model", MODEL, "--scorer-server", str(url)],
        "sdrrl": [*voices(url), *chat],
    }[recipe]


def arguments(recipe: str, prompts: Path, output: Path, *more: str) -> list[str]:
    common = ["--recipe", recipe, "--prompts", str(prompts), "--languages", ",".join(LANGUAGES), "--output", str(output)]
    return [*common, *more]


def rows(folder: Path) -> dict[str, bytes]:
    """What a build left that others read, as bytes."""
    return {name: (folder / name).read_bytes() for name in ("rows.jsonl", "origins.jsonl", "dropped.jsonl", "audit.json")}
