"""Will it fit, and what will it take? Compiles a run's programs for a TPU slice, on a machine without one.

    python -m mpo_jax.plan --config=configs/llama31.py --topology=v5e:2x4 [--config.field=value ...]
    python -m mpo_jax.plan --config=configs/llama31.py --search [--topologies=v5e:2x4,v5e:4x4]

Only the model's config.json is read, no weights and no data. Every sequence is assumed to have `data.max_length` tokens, or as
many as `--tokens` says. `--topologies=a,b,c` compares slices; `--search` finds the smallest slice that fits, and a mesh for it.
With `--rows=N [--price=MONEY]` it adds up the chip-hours of a run on N rows, and their price.

    python -m mpo_jax.plan --generate --model=DIR --topology=v5e:2x4 [--batch-size=N --prompt-tokens=N --max-new-tokens=N]

With `--generate` it compiles what writes a model's answers instead, and finds the largest batch of them that fits.

    python -m mpo_jax.plan --edit --model=DIR --topology=v5e:2x4 [--prompts=N --prompt-tokens=N]

With `--edit` it compiles what reads the prompts of an edit, layer by layer.
"""

import argparse
import dataclasses
import json
import sys

from mpo_jax.errors import InputError, one_sentence
from mpo_jax.planning.advice import Asked, describe, describe_generation, describe_reading, recommend
from mpo_jax.planning.editing import Reading, plan_reading
from mpo_jax.planning.generation import Writing
from mpo_jax.planning.generation_search import plan_generation
from mpo_jax.planning.programs import lay_out
from mpo_jax.planning.slice_fit import compiled
from mpo_jax.planning.slice_search import SearchResult, search
from mpo_jax.planning.tpu_compiler import EXAMPLES
from mpo_jax.training.config import parse

# What is planned instead of a training run: the class whose fields are its options, and what those are.
INSTEAD: dict[str, tuple[type, dict[str, str]]] = {
    "generate": (
        Writing,
        {
            "batch_size": f"answers written at once (default: {Writing.batch_size})",
            "prompt_tokens": f"tokens of a prompt with its chat format (default: {Writing.prompt_tokens})",
            "max_new_tokens": f"tokens of an answer (default: {Writing.max_new_tokens})",
            "tensor": "devices among which heads, feed-forward layers and vocabulary are split (default: the fewest that fit)",
            "width": "devices among which the other side of every matrix is split (default: the fewest that fit)",
            "dtype": f"of weights, caches and computation (default: {Writing.dtype})",
        },
    ),
    "edit": (
        Reading,
        {
            "prompts": f"number of prompts, all languages and both kinds together (default: {Reading.prompts})",
            "prompt_tokens": f"with --edit: (default: {Reading.prompt_tokens})",
            "tensor": f"with --edit: (default: {Reading.tensor})",
            "dtype": f"with --edit: (default: {Reading.dtype})",
        },
    ),
}
# Options of a plan of training, and their defaults.
TRAINING = {"search": False, "slices": 1, "tokens": None, "mfu": None, "rows": None, "price": None}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mpo_jax.plan", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--topology", "--topologies", help="a slice, such as v5e:2x4, or several: v5e:2x4,v5e:4x4")
    parser.add_argument("--search", action="store_true", help="find the smallest of these slices that fits (default: of all)")
    parser.add_argument("--slices", type=int, default=1, help="join this many slices along the mesh's data axis (default: 1)")
    parser.add_argument("--tokens", type=int, help="tokens in each sequence (default: data.max_length)")
    parser.add_argument(
        "--mfu", type=float, help="also print the time of an update at this share of the peak FLOP/s, such as 0.4"
    )
    parser.add_argument("--rows", type=int, metavar="N", help="also print the chip-hours of a run on a file of N rows")
    parser.add_argument("--price", type=float, metavar="MONEY", help="with --rows: for a chip-hour, in any currency")
    parser.add_argument("--json", action="store_true", help="print one line of JSON per slice (with --search, per generation)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--generate", action="store_true", help="plan the writing of answers instead of a training run")
    instead.add_argument("--edit", action="store_true", help="plan the reading of an edit's prompts instead")
    others = parser.add_argument_group("with --generate or --edit")
    others.add_argument("--model", help="a folder or a hub name (default: the model of --config)")
    abouts: dict[str, list[str]] = {}
    for _, options in INSTEAD.values():
        for name, about in options.items():
            abouts.setdefault(name, []).append(about)
    for name, about in abouts.items():
        kind, shown = (str, "DTYPE") if name == "dtype" else (int, "N")
        others.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=shown, help="; ".join(about))
    given, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    with one_sentence():
        names = given.topology.split(",") if given.topology else []
        _check(given, names)
        mode = next((mode for mode in INSTEAD if getattr(given, mode)), None)
        if mode is not None:
            wanted = _wanted(mode, given, rest)
            for name in names:
                if isinstance(wanted, Writing):
                    report = plan_generation(wanted, name, _say)
                    said = describe_generation(report)
                else:
                    report = plan_reading(wanted, name)
                    said = describe_reading(report)
                print(json.dumps(dataclasses.asdict(report)) if given.json else said, flush=True)
            return
        config = parse(rest)
        if given.search:
            answers = search(config, names, given.tokens, given.slices, _say)
        else:
            answers = (compiled(lay_out(config, name, given.tokens, given.slices)) for name in names)
        asked = Asked(given.mfu, given.rows, given.price)
        for answer in answers:
            said = recommend(answer, config, asked) if isinstance(answer, SearchResult) else describe(answer, config, asked)
            print(json.dumps(dataclasses.asdict(answer)) if given.json else said, flush=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _wanted(mode: str, given: argparse.Namespace, rest: list[str]) -> Writing | Reading:
    """What `--generate` or `--edit` asks for. Of a config it reads the model alone."""
    for arg in rest:
        if not arg.startswith(("--config=", "--config.model=")):
            raise InputError(
                f"'{arg}' has no effect with --{mode}, which reads the model of a config and nothing else: leave it out."
            )
    if given.model is not None and rest:
        raise InputError(f"--model={given.model} and '{rest[0]}' both name a model: write one of them.")
    model = given.model if given.model is not None else parse(rest).model
    kind, options = INSTEAD[mode]
    return kind(model, **{name: getattr(given, name) for name in options if getattr(given, name) is not None})


def _check(given: argparse.Namespace, names: list[str]) -> None:
    mode = next((mode for mode in INSTEAD if getattr(given, mode)), None)
    for name in ("model", *dict.fromkeys(name for _, options in INSTEAD.values() for name in options)):
        takes = [f"--{other}" for other, (_, options) in INSTEAD.items() if name == "model" or name in options]
        if getattr(given, name) is not None and (mode is None or f"--{mode}" not in takes):
            option = f"--{name.replace('_', '-')}"
            raise InputError(
                f"{option} belongs to {' or '.join(takes)}: add {'that' if mode is None else 'it instead'}, or leave it out."
            )
    for name, default in TRAINING.items():
        if mode is not None and getattr(given, name) != default:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} belongs to a training run: leave it or --{mode} out.")
    if not names and not given.search:
        search = "" if mode is not None else ", or --search"
        raise InputError(f"No slice was given: write --topology=SLICE with a slice such as {EXAMPLES}{search}.")
    if given.slices < 1:
        raise InputError(f"--slices={given.slices} must be at least 1.")
    if given.rows is not None and given.rows < 1:
        raise InputError(f"--rows={given.rows} must be at least 1.")
    if given.price is not None and (given.rows is None or not given.price >= 0):
        raise InputError(f"--price={given.price} is the money for a chip-hour, 0 or more: write it with --rows=N.")
    if given.mfu is not None and not 0 < given.mfu <= 1:
        raise InputError(f"--mfu={given.mfu} must be above 0 and at most 1, such as 0.4.")


if __name__ == "__main__":
    main()
