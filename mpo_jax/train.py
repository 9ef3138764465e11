"""Train: reads a Hugging Face checkpoint, and writes an aligned one.

    python -m mpo_jax.train --config=configs/quickstart.py [--config.field=value ...]

The output folder then holds config.json, metrics.jsonl, tensorboard/, checkpoints/, plots (PNG), reward_gap.json and export/.
"""

import sys

from mpo_jax.devices import processes
from mpo_jax.devices.interruption import Interrupted
from mpo_jax.errors import one_sentence
from mpo_jax.training.config import parse
from mpo_jax.training.loop import train


def main(argv: list[str] | None = None) -> None:
    with one_sentence():
        config = parse(sys.argv[1:] if argv is None else argv)
        with processes.joined(config.hosts), one_sentence():
            try:
                train(config)
            except Interrupted as interrupted:
                processes.say(str(interrupted))
                sys.exit(interrupted.code)


if __name__ == "__main__":
    main()
