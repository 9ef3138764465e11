"""What does each round of a recipe start from, and what does it train on? Rounds of making rows and training on them.

M_1 = `model`;  round k: rows from M_k -> OUT/round_k/data, training from M_k -> OUT/round_k/run;  M_k+1 = its export
"""

import dataclasses
import string
from pathlib import Path

from mpo_jax.errors import InputError, check_choice
from mpo_jax.files.paths import path_of
from mpo_jax.recipes.writing import ROWS_FILE
from mpo_jax.training.config import TrainConfig

MODELS = ("start", "first", "previous")
SET_BY_ROUNDS = ("--output", "--model")


@dataclasses.dataclass
class RoundsConfig:
    """`rounds` rounds from `model`, in folders of `output`.

    `build`: the options of `python -m mpo_jax.build` without --model and --output. In them {start} stands for the model that the
    round starts from, {previous} for the one that the round before started from ({start} in the first round), {first} for
    `model`, and {round} for the round's number, from 1.
    `train`: the config of each round's training, whose model, data and output are set here.
    `reference`: which of these models is the frozen reference of a round's training, 'start', 'previous' or 'first', or another
    model's folder or hub name.
    """

    model: str
    output: str
    build: tuple[str, ...]
    train: TrainConfig
    rounds: int = 2
    reference: str = "start"

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"rounds={self.rounds} must be at least 1.")
        for option in self.build:
            if (name := option.partition("=")[0]) in SET_BY_ROUNDS:
                raise InputError(f"build has {name}, which each round sets by itself: leave it out.")
            fields = [name for _, name, _, _ in string.Formatter().parse(option) if name is not None]
            for name in fields:
                check_choice("build: the name in braces", name, (*MODELS, "round"))

    def carried_out(self) -> "list[Round]":
        """The rounds, in order."""
        found, models = [], [self.model]
        for number in range(1, self.rounds + 1):
            folder = f"{self.output.rstrip('/')}/round_{number}"
            known = {"start": models[-1], "previous": models[max(0, number - 2)], "first": self.model}
            reference = known.get(self.reference, self.reference)
            data, run = f"{folder}/data", f"{folder}/run"
            build = [option.format(**known, round=number) for option in self.build]
            build += [f"--model={models[-1]}", f"--output={data}"]
            train = dataclasses.replace(
                self.train,
                model=models[-1],
                data=dataclasses.replace(self.train.data, path=f"{data}/{ROWS_FILE}"),
                output=run,
                reference_model=None if reference == models[-1] else reference,
                checkpoint=dataclasses.replace(self.train.checkpoint, resume="auto"),
            )
            found.append(Round(number, build, train))
            models.append(f"{run}/export")
        return found


@dataclasses.dataclass(frozen=True)
class Round:
    """`build`: the options of `python -m mpo_jax.build`. `train`: the config of the training."""

    number: int
    build: list[str]
    train: TrainConfig

    @property
    def export(self) -> Path:
        return path_of(self.train.output) / "export"
