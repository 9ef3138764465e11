"""What does a reader see? Safe and unsafe answers of the dominant language and another, on their common principal plane."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mpo_jax.evaluation.representation.separation import principal_plane
from mpo_jax.evaluation.representation.states import Exchange
from mpo_jax.evaluation.representation.table import Line
from mpo_jax.telemetry.plots import panels, save

COLOURS = {True: "tab:green", False: "tab:red"}
MARKERS = ("o", "^")  # the dominant language, the other


def plot_planes(states: Mapping[str, np.ndarray], exchanges: Sequence[Exchange], dominant: str, path: Path) -> None:
    """Figures 5 and 6 of arXiv:2505.16869: a row for each model (label -> states (N, D)), a column for each language beside the
    dominant one. The components are those of both languages' states together, for each panel anew."""
    language_N = np.array([exchange.language for exchange in exchanges])
    safe_N = np.array([exchange.safe for exchange in exchanges])
    others = [language for language in dict.fromkeys(language_N.tolist()) if language != dominant]
    drawn, axes = panels(len(states), len(others), 3.2)
    for row, (label, states_ND) in zip(axes, states.items(), strict=True):
        for axis, other in zip(row, others, strict=True):
            shown_N = np.isin(language_N, (dominant, other))
            plane_N2 = principal_plane(states_ND[shown_N])
            for language, marker in zip((dominant, other), MARKERS, strict=True):
                for safe, colour in COLOURS.items():
                    mine = (language_N[shown_N] == language) & (safe_N[shown_N] == safe)
                    what = f"{language}, {'safe' if safe else 'unsafe'}"
                    axis.scatter(*plane_N2[mine].T, s=14, c=colour, marker=marker, alpha=0.6, label=what, linewidths=0)
            axis.set(title=f"{label}: {dominant} and {other}", xticks=[], yticks=[])
            axis.legend(fontsize=6, loc="best")
    save(drawn, path)


def plot_layers(tables: Mapping[str, Sequence[Sequence[Line]]], path: Path) -> None:
    """Of each model (label -> a table a layer) the probe's accuracy and the silhouette over the layers, a line a language."""
    drawn, axes = panels(len(tables), 2, 4.0)
    for row, (label, of_layers) in zip(axes, tables.items(), strict=True):
        for axis, name in zip(row, ("accuracy", "silhouette"), strict=True):
            for i, line in enumerate(of_layers[0]):
                axis.plot([getattr(lines[i], name)[0] for lines in of_layers], label=line.language, marker=".")
            axis.set(title=f"{label}: {'probe accuracy' if name == 'accuracy' else name}", xlabel="layer")
        row[0].legend(fontsize=7)
    save(drawn, path)
