"""Will it fit? Compiles a run's programs for a TPU slice, on a machine without one.

    python -m mpo_jax.plan --config=configs/llama31.py --topology=v5e:2x4 [--config.field=value ...]
    python -m mpo_jax.plan --config=configs/llama31.py --search [--topologies=v5e:2x4,v5e:4x4]

Only the model's config.json is read, no weights and no data. Every sequence is assumed to have `data.max_length` tokens, or as
many as `--tokens` says. `--topologies=a,b,c` compares slices; `--search` finds the smallest slice that fits, and a mesh for it.
"""

import argparse
import dataclasses
import json
import sys

from mpo_jax.errors import InputError, one_sentence
from mpo_jax.planning.advice import describe, recommend
from mpo_jax.planning.programs import lay_out
from mpo_jax.planning.slice_fit import compiled
from mpo_jax.planning.slice_search import SearchResult, search
from mpo_jax.planning.tpu_compiler import EXAMPLES
from mpo_jax.training.config import parse


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
    parser.add_argument("--json", action="store_true", help="print one line of JSON per slice (with --search, per generation)")
    given, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    with one_sentence():
        config = parse(rest)
        names = given.topology.split(",") if given.topology else []
        _check(given, names)
        if given.search:
            answers = search(config, names, given.tokens, given.slices, lambda line: print(line, file=sys.stderr, flush=True))
        else:
            answers = (compiled(lay_out(config, name, given.tokens, given.slices)) for name in names)
        for answer in answers:
            said = (
                recommend(answer, config, given.mfu) if isinstance(answer, SearchResult) else describe(answer, config, given.mfu)
            )
            print(json.dumps(dataclasses.asdict(answer)) if given.json else said, flush=True)


def _check(given: argparse.Namespace, names: list[str]) -> None:
    if not names and not given.search:
        raise InputError(f"No slice was given: write --topology=SLICE with a slice such as {EXAMPLES}, or --search.")
    if given.slices < 1:
        raise InputError(f"--slices={given.slices} must be at least 1.")
    if given.mfu is not None and not 0 < given.mfu <= 1:
        raise InputError(f"--mfu={given.mfu} must be above 0 and at most 1, such as 0.4.")


if __name__ == "__main__":
    main()
