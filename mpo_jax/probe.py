"""Where are a model's languages in its states? Makes the probe that LENS trains with (arXiv:2410.04407).

    python -m mpo_jax.probe --model DIR --data FILE --output probe.safetensors [--rank Q]

The rows of --data are those of training; their prompts are read, in the dominant language and in the others. The file has the
direction that all languages share, those that tell them apart, and how far each lies from the dominant one; a run with
`losses.Lens` names it as `loss.probe`. docs/objectives.md says what LENS does with it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpo_jax.data.rows import read_rows
from mpo_jax.devices import processes
from mpo_jax.devices.sharding import MeshConfig, make_mesh
from mpo_jax.errors import InputError, one_sentence
from mpo_jax.files.paths import write
from mpo_jax.losses.language_subspaces import Subspaces
from mpo_jax.reward_gap import add_forward, add_row_limits
from mpo_jax.scoring.language_probe import make_probe


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mpo_jax.probe", description="Makes the probe that LENS trains with.")
    parser.add_argument("--model", required=True, help="a folder, or a Hugging Face hub name as user/name[@revision]")
    parser.add_argument("--data", required=True, help="rows as for training: a file, or a Hugging Face data set")
    parser.add_argument("--output", required=True, help="the file to write, as probe.safetensors")
    parser.add_argument("--rank", type=int, help="number of directions that tell languages apart (default: languages - 1)")
    add_row_limits(parser)
    add_forward(parser)
    processes.add_options(parser)
    args = parser.parse_args(argv)
    with one_sentence(), processes.joined(processes.hosts_of(args)), one_sentence():
        run(args)


def run(args: argparse.Namespace) -> None:
    """What the command does, in each of its processes. Errors: those of the model, the data and the mesh; a folder in place of
    the file."""
    output = Path(args.output)
    if "://" in args.output or output.is_dir() or output.suffix != ".safetensors":
        raise InputError(f"--output {args.output} names no local safetensors file: write probe.safetensors, for example.")
    rows = read_rows(args.data, allow_empty_prompt=args.allow_empty_prompt)
    settings = {"template": args.template, "max_length": args.max_length, "dtype": args.dtype, "rank": args.rank}
    probe = make_probe(args.model, rows, make_mesh(MeshConfig(fsdp=args.fsdp, tensor=args.tensor)), **settings)
    output.parent.mkdir(parents=True, exist_ok=True)
    if processes.first():
        write(output, probe.encoded())
    processes.wait("the first process has written the probe")
    if not output.exists():  # hosts without a common disk: a run reads it on each of them
        write(output, probe.encoded())
    processes.say(f"{described(probe)}\nin {output}")


def described(probe: Subspaces) -> str:
    """How far each language lies from the dominant one, relative to what all languages share."""
    common = np.linalg.norm(probe.agnostic_D)
    lines = [
        f"{language:>8}  {np.linalg.norm(shift_D) / common:.2f}"
        for language, shift_D in zip(probe.languages[1:], probe.shift_KD[1:], strict=True)
    ]
    head = f"distance of the mean states from those of {probe.languages[0]}, 1 = the length of what all languages share"
    return "\n".join([head, *lines])


if __name__ == "__main__":
    main()
