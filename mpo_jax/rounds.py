"""How does a model improve on its own answers, round after round? Each makes rows from the model so far and trains on them.

    python -m mpo_jax.rounds --config=configs/icr_llama3.py [--config.rounds=2] [--config.train.optim.peak_lr=5e-7 ...]

Every round is what `python -m mpo_jax.build` and `python -m mpo_jax.train` do, in OUT/round_1, OUT/round_2, ...; the commands are
printed. The model that a round exports is the start of the next. The same command goes on where it was cut short, in any stage.
"""

import gc
import shlex
import sys

import jax

from mpo_jax import build
from mpo_jax.checkpoints.export_folder import is_whole
from mpo_jax.devices import processes
from mpo_jax.devices.interruption import Interrupted
from mpo_jax.errors import InputError, one_sentence
from mpo_jax.files.paths import path_of
from mpo_jax.recipes.rounds import RoundsConfig
from mpo_jax.training.config import parse_any
from mpo_jax.training.loop import train


def main(argv: list[str] | None = None) -> None:
    with one_sentence():
        config = parse_any(sys.argv[1:] if argv is None else argv)
        if not isinstance(config, RoundsConfig):
            raise InputError("The config is not one of rounds: give one whose get_config returns a recipes.rounds.RoundsConfig.")
        with processes.joined(config.train.hosts), one_sentence():
            try:
                run(config)
            except Interrupted as interrupted:
                processes.say(str(interrupted))
                sys.exit(interrupted.code)


def run(config: RoundsConfig) -> None:
    """All rounds that are not there yet. Errors: several processes; those of `build` and of a training."""
    if jax.process_count() > 1:
        raise InputError(
            f"Rounds ask others than the model, for which {jax.process_count()} processes would wait: run each round's commands, "
            "`build` with --stage and `train`, by themselves (docs/recipes.md)."
        )
    if not config.train.export.enabled:
        raise InputError("train.export.enabled=False leaves no model for the next round: leave it out.")
    for round_ in config.carried_out():
        name = f"round {round_.number} of {config.rounds}"
        if is_whole(path_of(round_.export)):
            processes.say(f"{name}: {round_.export} is there")
            continue
        processes.say(f"{name}: python -m mpo_jax.build {shlex.join(round_.build)}")
        args, recipe_type = build.parsed(round_.build)
        build.run(args, build.recipe_of(args, recipe_type))
        gc.collect()  # the weights that wrote the answers go before those that are trained come
        processes.say(f"{name}: training from {round_.train.model} on {round_.train.data.path}")
        train(round_.train)
        gc.collect()


if __name__ == "__main__":
    main()
