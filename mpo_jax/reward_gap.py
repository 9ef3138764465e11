"""How far is each language's reward gap from the dominant one? Table 1 of arXiv:2505.16869, without generating a token.

    python -m mpo_jax.reward_gap --model DIR --data FILE --output OUT [--compare DIR2]

Writes OUT/rows.jsonl (one line per row), OUT/reward_gap.json (the table) and OUT/reward_gap.png. With `--compare` both models are
measured on the same rows and shown side by side, as before (--model) and after (--compare).

On a cluster every process runs the command, and the first one writes; elsewhere `--hosts.coordinator`, `--hosts.count` and
`--hosts.index` join several processes.

With `--base DIR3` the gap is that of DPO's implicit reward instead (eq. 2), in nats: `--beta` times the difference between the
model's gap and the base model's, both of summed log-probabilities. It needs no dominant side and no length normalisation, and
shows what training changed, not how safe a model is.
"""

import argparse
import operator
from collections.abc import Sequence

import jax

from mpo_jax.data.chat_format import TEMPLATES
from mpo_jax.data.rows import read_rows
from mpo_jax.devices import processes
from mpo_jax.devices.sharding import MeshConfig, make_mesh
from mpo_jax.errors import InputError, one_sentence
from mpo_jax.evaluation.gap_table import format_tables, implicit
from mpo_jax.evaluation.held_out import mean_gap
from mpo_jax.evaluation.model_gaps import gaps_of, write_gaps
from mpo_jax.files.paths import output_folder
from mpo_jax.types import DTYPES


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mpo_jax.reward_gap", description="Measures reward gaps per language.")
    add_models(parser)
    parser.add_argument("--base", help="measure the gap of DPO's implicit reward relative to this model instead")
    parser.add_argument("--beta", type=float, help="beta of the implicit reward (default: 0.1)")
    parser.add_argument(
        "--data", required=True, help="a .json or .jsonl file, or a Hugging Face data set, user/name[@revision][:split]"
    )
    parser.add_argument("--output", required=True, help="a folder for rows.jsonl, reward_gap.json and reward_gap.png")
    parser.add_argument("--batch-size", type=int, default=8, help="rows per batch (default: %(default)s)")
    add_row_limits(parser)
    add_forward(parser)
    processes.add_options(parser)
    args = parser.parse_args(argv)
    with one_sentence(), processes.joined(processes.hosts_of(args)), one_sentence():
        run(args)


def add_models(parser: argparse.ArgumentParser) -> None:
    """The options of a model, or of two that are measured on the same rows."""
    parser.add_argument("--model", required=True, help="a folder, or a Hugging Face hub name as user/name[@revision]")
    parser.add_argument("--compare", help="a second model, measured on the same rows")
    parser.add_argument("--adapter", help="a LoRA adapter of --compare, or of --model alone; a folder as PEFT saves it")


def add_row_limits(parser: argparse.ArgumentParser) -> None:
    """Which rows are taken, and how much of them."""
    parser.add_argument("--allow-empty-prompt", action="store_true", help="accept rows with an empty prompt")
    parser.add_argument(
        "--max-length", type=int, default=1024, help="most tokens of prompt and answer together (default: %(default)s)"
    )


def add_forward(parser: argparse.ArgumentParser) -> None:
    """The options of a forward pass: chat format, dtype and mesh."""
    parser.add_argument(
        "--template",
        choices=TEMPLATES,
        default="authors",
        help="authors: the chat format of MPO's authors for this family; hf: the tokenizer's own (default: %(default)s)",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="dtype of the computation (default: %(default)s)")
    parser.add_argument("--fsdp", type=int, default=-1, help="number of devices that shard the parameters (default: all others)")
    parser.add_argument("--tensor", type=int, default=1, help="number of devices that split each layer (default: %(default)s)")


def compared(args: argparse.Namespace) -> dict[str, tuple[str, str | None]]:
    """Label -> (a model, its adapter or None): "model", or "before" and "after", of which the last one has the adapter."""
    names = {"before": args.model, "after": args.compare} if args.compare else {"model": args.model}
    return {label: (name, args.adapter if label == list(names)[-1] else None) for label, name in names.items()}


def run(args: argparse.Namespace) -> None:
    """What the command does, in each of its processes. Errors: those of the models, the data and the mesh."""
    output = output_folder(args.output)
    if args.beta is not None and (args.base is None or args.beta <= 0):
        raise InputError(f"--beta={args.beta} belongs to the reward relative to --base: give --base too, and a beta above 0.")
    beta = 0.1 if args.beta is None else args.beta
    what = f"implicit reward gap, nats, beta {beta}" if args.base else "length-normalised reward gap, nats per token"
    rows = read_rows(args.data, allow_empty_prompt=args.allow_empty_prompt)
    mesh = make_mesh(MeshConfig(fsdp=args.fsdp, tensor=args.tensor))
    settings = {"batch_size": args.batch_size, "template": args.template, "max_length": args.max_length, "dtype": args.dtype}
    with jax.set_mesh(mesh):
        gap = operator.attrgetter("gap_B") if args.base else mean_gap
        measured = {
            label: gaps_of(name, rows, gap, mesh=mesh, adapter=adapter, **settings)
            for label, (name, adapter) in compared(args).items()
        }
        if args.base:
            base = gaps_of(args.base, rows, gap, mesh=mesh, **settings)
            measured = {label: implicit(gaps, base, beta) for label, gaps in measured.items()}
    if processes.first():
        tables = write_gaps(output, measured, what)
        print(f"{what}, on {len(rows)} rows [95 % interval]\n{format_tables(tables)}")


if __name__ == "__main__":
    main()
