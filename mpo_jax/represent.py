"""Do a model's states tell safe answers from unsafe ones in every language? A picture, and numbers that test it.

    python -m mpo_jax.represent --model DIR --data FILE --output OUT [--compare DIR2] [--layers]
    python -m mpo_jax.represent --model DIR --prompts FILE --safe safe.json --unsafe unsafe.json --output OUT

The rows of --data are those of training: a prompt with a safe (chosen) and an unsafe (rejected) answer, in the dominant language
and another. Or each prompt gets the same two answers of its language, from two files such as {"en": "I cannot help", "sw": ...}.

Writes OUT/representation.png (Figures 5 and 6 of arXiv:2505.16869), OUT/representation.json, and with --layers OUT/layers.png.
docs/representation.md says what the numbers mean.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import jax

from mpo_jax.data.prompts.registry import read_prompts
from mpo_jax.data.rows import Row, read_rows
from mpo_jax.devices import processes
from mpo_jax.devices.sharding import MeshConfig, make_mesh
from mpo_jax.errors import InputError, one_sentence
from mpo_jax.evaluation.representation.given import rows_of_prompts
from mpo_jax.evaluation.representation.picture import plot_layers, plot_planes
from mpo_jax.evaluation.representation.states import POSITIONS, exchanges_of, states_of
from mpo_jax.evaluation.representation.table import as_json, format_lines, separation_table
from mpo_jax.files.json_files import write_json
from mpo_jax.files.paths import output_folder, path_of
from mpo_jax.reward_gap import add_forward, add_models, add_row_limits, compared


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mpo_jax.represent", description="Pictures and measures a model's states.")
    add_models(parser)
    parser.add_argument("--data", help="rows as for training: a file, or a Hugging Face data set")
    parser.add_argument("--prompts", help="instead: a file of prompts, the same ids in every language")
    parser.add_argument("--safe", metavar="FILE", help="with --prompts: a JSON object, language -> a safe answer")
    parser.add_argument("--unsafe", metavar="FILE", help="likewise an unsafe one")
    parser.add_argument("--dominant", help="with --prompts: the language that the probe learns from (default: en)")
    parser.add_argument("--limit", metavar="N", type=int, help="with --prompts: only the first N of each language")
    parser.add_argument("--output", required=True, help="a folder for the pictures and numbers")
    parser.add_argument(
        "--position", choices=POSITIONS, default="last", help="the state at the last token, or their mean (default: %(default)s)"
    )
    parser.add_argument("--layers", action="store_true", help="the numbers of every layer too")
    parser.add_argument("--seed", type=int, default=0, help="which prompts the probe is trained on (default: %(default)s)")
    add_row_limits(parser)
    add_forward(parser)
    processes.add_options(parser)
    args = parser.parse_args(argv)
    with one_sentence(), processes.joined(processes.hosts_of(args)), one_sentence():
        run(args)


def run(args: argparse.Namespace) -> None:
    """What the command does, in each of its processes. Errors: those of the models, the data and the mesh."""
    output = output_folder(args.output)
    rows = rows_of(args)
    dominant = {row.source.language for row in rows if row.source is not None}
    if len(dominant) != 1:
        found = f"dominant sides in {', '.join(sorted(dominant))}" if dominant else "no dominant side"
        raise InputError(
            f"{args.data or args.prompts} has {found}: give rows with one dominant language, which the probe learns from."
        )
    exchanges = exchanges_of(rows)
    mesh = make_mesh(MeshConfig(fsdp=args.fsdp, tensor=args.tensor))
    given = {"template": args.template, "max_length": args.max_length, "dtype": args.dtype, "position": args.position}
    with jax.set_mesh(mesh):
        states = {
            label: states_of(name, rows, exchanges, mesh=mesh, layers=args.layers, adapter=adapter, **given)
            for label, (name, adapter) in compared(args).items()
        }
    if not processes.first():
        return
    [first] = dominant
    tables = {label: separation_table(of.final, exchanges, first, args.seed) for label, of in states.items()}
    content: dict[str, dict[str, Any]] = {label: {"final": as_json(lines)} for label, lines in tables.items()}
    output.mkdir(parents=True, exist_ok=True)
    plot_planes({label: of.final for label, of in states.items()}, exchanges, first, output / "representation.png")
    if args.layers:
        of_layers = {
            label: [separation_table(layer_ND, exchanges, first, args.seed) for layer_ND in of.layers]
            for label, of in states.items()
            if of.layers is not None
        }
        plot_layers(of_layers, output / "layers.png")
        for label, of in of_layers.items():
            content[label]["layers"] = [as_json(lines) for lines in of]
    write_json(output / "representation.json", content)
    print(f"safe against unsafe, by the final states of {len(exchanges)} answers [95 % interval]\n{format_lines(tables)}")


def rows_of(args: argparse.Namespace) -> list[Row]:
    """Errors: not one of the two ways to give them; those of `read_rows` and `rows_of_prompts`."""
    of_prompts = {"--safe": args.safe, "--unsafe": args.unsafe, "--dominant": args.dominant, "--limit": args.limit}
    if args.data is not None:
        if extra := [name for name, value in {"--prompts": args.prompts, **of_prompts}.items() if value is not None]:
            raise InputError(f"--data has prompts and answers, and {extra[0]} was given too: leave one of them out.")
        return read_rows(args.data, allow_empty_prompt=args.allow_empty_prompt)
    if lacking := [name for name in ("prompts", "safe", "unsafe") if getattr(args, name) is None]:
        raise InputError(f"--{lacking[0]} is missing: give --data, or all of --prompts, --safe and --unsafe.")
    prompts = read_prompts(args.prompts, limit=args.limit)
    return rows_of_prompts(prompts, path_of(args.safe), path_of(args.unsafe), args.dominant or "en")


if __name__ == "__main__":
    main()
