"""What does a run look like, on one page? Several runs stand side by side.

    python -m mpo_jax.report RUN [RUN ...] [--output FILE] [--texts]

RUN is the output folder of `mpo_jax.train`, which may hold what `reward_gap`, `safety` and `utility` wrote of its model, or that
of `mpo_jax.experiments.transfer`, whose methods then stand side by side. The page needs no network. Without `--texts` it quotes
no prompt and no answer (docs/report.md).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mpo_jax.errors import InputError, one_sentence
from mpo_jax.experiments.side_by_side import read_study
from mpo_jax.files.paths import absolute, path_of
from mpo_jax.reporting.facts import Run
from mpo_jax.reporting.page import NAME, write_page
from mpo_jax.reporting.run_folder import read_run


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mpo_jax.report", description="Puts runs on one page.")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the output folder of a run, or of experiments.transfer")
    parser.add_argument(
        "--output", metavar="FILE", help=f"the page (default: {NAME} in the folder; with several, in the current one)"
    )
    parser.add_argument("--texts", action="store_true", help="with prompts and answers, folded away; they may be harmful")
    args = parser.parse_args(argv)
    with one_sentence():
        run(args)


def run(args: argparse.Namespace) -> None:
    """What the command does. Errors: folders that hold nothing of a run; a page that cannot be written."""
    folders = [path_of(name) for name in args.runs]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder: give the output folder of a run.")
    names = names_of(folders)
    runs: list[Run] = []
    for folder, name in zip(folders, names, strict=True):
        runs += read_study(folder) or [read_run(folder, name, texts=args.texts)]
    output = path_of(args.output) if args.output else folders[0] / NAME if len(folders) == 1 else Path(NAME)
    if output.is_dir():
        raise InputError(f"--output {output} is a folder: give the name of a file, such as {output / NAME}.")
    try:
        write_page(output, runs)
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror}): give another --output.") from None
    print(f"{output}: {len(runs)} {'run' if len(runs) == 1 else 'runs side by side'}")


def names_of(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart. Errors: a folder that is given twice."""
    parts = [absolute(folder).parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise InputError("A folder is given twice: give each once.")
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different paths have different parts")


if __name__ == "__main__":
    main()
