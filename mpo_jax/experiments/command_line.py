"""Which options does every study have, and what is wrong with them in one sentence?"""

import argparse
from pathlib import Path

from mpo_jax.errors import InputError


def study_parser(name: str, about: str) -> argparse.ArgumentParser:
    """Of the study `mpo_jax.experiments.NAME`, with how many seeds it reports and where it writes."""
    parser = argparse.ArgumentParser(prog=f"python -m mpo_jax.experiments.{name}", description=about)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds to report (default: %(default)s)")
    out = "folder for results.json, tables.md and plots (default: %(default)s)"
    parser.add_argument("--out", default=f"runs/{name}", help=out)
    return parser


def folder_of(given: argparse.Namespace) -> Path:
    """Where the study writes. Errors: no seed; a folder that is not on this machine."""
    if given.seeds < 1:
        raise InputError(f"--seeds={given.seeds} must be at least 1, and at least 2 for intervals.")
    if "://" in given.out:
        raise InputError(f"--out={given.out} is not a local folder: give one, since a study cannot write to a bucket.")
    return Path(given.out)
