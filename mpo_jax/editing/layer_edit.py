"""How is one layer's MLP edited? Its safety neurons, and the change that makes other languages' harmful prompts reach them."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from mpo_jax.editing.low_rank import LowRankEdit, Penalty
from mpo_jax.editing.neurons import Thresholds, safety_neurons
from mpo_jax.errors import InputError, check_choice

MATRICES = ("gate", "up")  # of a gated MLP: its products with the input
GATE_TARGETS = ("linear", "activated")


@dataclasses.dataclass(frozen=True)
class EditConfig:
    """What Sparse Weight Editing leaves open, with our defaults (docs/editing.md). `rank`: of each change, 32 in the paper's main
    table; None = without a limit. `gate_target`: what the gate of other languages is drawn to, the dominant language's product
    with the gate as it is ('linear', as the closed form assumes) or after the activation ('activated', as in the paper's eq. 3).
    """

    rank: int | None = 32
    gate_target: str = "linear"
    thresholds: Thresholds = dataclasses.field(default_factory=Thresholds)
    penalty: Penalty = dataclasses.field(default_factory=Penalty)

    def __post_init__(self) -> None:
        check_choice("gate_target", self.gate_target, GATE_TARGETS)
        if self.rank is not None and self.rank < 1:
            raise InputError(f"rank={self.rank} must be at least 1.")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What enters one layer's MLP, (N, D): language -> of the harmful prompts, which are parallel in all languages, and of the
    harmless ones. The first language is the dominant one."""

    harmful: Mapping[str, np.ndarray]
    harmless: Mapping[str, np.ndarray]

    @property
    def dominant(self) -> str:
        return next(iter(self.harmful))

    @property
    def others(self) -> tuple[str, ...]:
        return tuple(self.harmful)[1:]


@dataclasses.dataclass(frozen=True)
class MatrixEdit:
    """The change of one matrix (D, F): `left` (D, r) @ `right` (r, M), added to the columns of its M edited `neurons`, the
    dominant language's. `of_language`: language -> which of the F neurons answer to harm in it."""

    of_language: Mapping[str, np.ndarray]
    neurons: np.ndarray
    left: np.ndarray
    right: np.ndarray

    def applied(self, weight_DF: np.ndarray) -> np.ndarray:
        """float32."""
        edited_DF = weight_DF.astype(np.float32)
        edited_DF[:, self.neurons] += (self.left @ self.right).astype(np.float32)
        return edited_DF


def edit_layer(
    weights: Mapping[str, np.ndarray], inputs: Inputs, config: EditConfig, activation: Callable[[np.ndarray], np.ndarray]
) -> dict[str, MatrixEdit]:
    """The edits of `MATRICES`, whose weights (D, F) are given. On the other languages' harmful prompts, stacked, the edited
    neurons are to do what they do on the parallel dominant prompts; harmless prompts of all languages hold them in place.
    `activation`: the MLP's.

    Errors: no safety neuron in the dominant language; those of `safety_neurons` and `LowRankEdit`.
    """
    low_ND = np.concatenate([inputs.harmful[language] for language in inputs.others])
    solve = LowRankEdit(low_ND, np.concatenate(list(inputs.harmless.values())), config.penalty)
    edits = {}
    for name in MATRICES:
        weight_DF = weights[name].astype(np.float32)
        of_language = {
            language: safety_neurons(x_ND @ weight_DF, inputs.harmless[language] @ weight_DF, config.thresholds)
            for language, x_ND in inputs.harmful.items()
        }
        neurons = np.flatnonzero(of_language[inputs.dominant])
        if not len(neurons):
            raise InputError(
                f"No neuron of '{name}' answers to harm in '{inputs.dominant}' by z > {config.thresholds.z} or d > "
                f"{config.thresholds.d}: lower a threshold, give more prompts, or leave the layer out."
            )
        goal_NM = inputs.harmful[inputs.dominant] @ weight_DF[:, neurons]
        if name == "gate" and config.gate_target == "activated":
            goal_NM = activation(goal_NM)
        wanted_NM = np.tile(goal_NM, (len(inputs.others), 1)) - low_ND @ weight_DF[:, neurons]
        left, right = solve(wanted_NM, config.rank)
        edits[name] = MatrixEdit(of_language, neurons, left.astype(np.float32), right.astype(np.float32))
    return edits
