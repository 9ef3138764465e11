"""Sweep: train every combination of a grid of settings, and compare their held-out results in a table and a plot.

    python -m mpo_jax.sweep --config=configs/llama31.py --grid="loss.beta=0.5,1 optim.peak_lr=3e-7,6e-7"
        [--config.field=value ...]

Runs that differ only in numbers of the loss or in the peak learning rate share model, data, reference and compiled programs. Each
has its own folder in the config's output, with what `python -m mpo_jax.train` leaves except the export. When the command is run
again, finished runs are skipped and an interrupted one is resumed.
"""

import sys

from mpo_jax.devices import processes
from mpo_jax.devices.interruption import Interrupted
from mpo_jax.errors import one_sentence
from mpo_jax.training.grid import parse_points, sweep


def main(argv: list[str] | None = None) -> None:
    with one_sentence():
        points = parse_points(sys.argv[1:] if argv is None else argv)
        with processes.joined(points[0].config.hosts), one_sentence():
            try:
                sweep(points)
            except Interrupted as interrupted:
                processes.say(f"{interrupted}; the same command continues with this point and those after it")
                sys.exit(interrupted.code)


if __name__ == "__main__":
    main()
