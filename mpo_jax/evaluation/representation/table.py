"""How well does each language tell safe answers from unsafe ones, by how many numbers, with which intervals?"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpo_jax.errors import InputError
from mpo_jax.evaluation.proportion import wilson
from mpo_jax.evaluation.representation.separation import LinearProbe, silhouettes
from mpo_jax.evaluation.representation.states import Exchange

RESAMPLES = 1000
LEAST = 4  # prompts


@dataclasses.dataclass(frozen=True)
class Line:
    """One language. `silhouette` with the ends of its 95 % interval, by bootstrap over prompts; `accuracy` of the probe on the
    prompts it did not see, with Wilson's."""

    language: str
    prompts: int
    silhouette: tuple[float, float, float]
    accuracy: tuple[float, float, float]


def separation_table(states_ND: np.ndarray, exchanges: Sequence[Exchange], dominant: str, seed: int = 0) -> list[Line]:
    """A line a language, the dominant one first. The probe is trained on the dominant language's answers to half of the prompts,
    drawn by `seed`, and tried on every language's answers to the other half. Errors: too few prompts; a language that has none of
    either half."""
    language_N = np.array([exchange.language for exchange in exchanges])
    safe_N = np.array([exchange.safe for exchange in exchanges])
    prompt_N = np.array([exchange.prompt for exchange in exchanges])
    prompts = np.unique(prompt_N[language_N == dominant])
    if len(prompts) < LEAST:
        raise InputError(f"There are {len(prompts)} prompts in the dominant language '{dominant}': give at least {LEAST}.")
    random = np.random.default_rng(seed)
    seen_N = np.isin(prompt_N, random.permutation(prompts)[: len(prompts) // 2])
    learnt_N = seen_N & (language_N == dominant)
    probe = LinearProbe(states_ND[learnt_N], safe_N[learnt_N])
    lines = []
    for language in dict.fromkeys([dominant, *language_N.tolist()]):
        mine_N = language_N == language
        tried_N = mine_N & ~seen_N
        if not tried_N.any():
            raise InputError(f"All prompts in '{language}' were used to train the probe: give more prompts.")
        right = int((probe(states_ND[tried_N]) == safe_N[tried_N]).sum())
        of_each_N = silhouettes(states_ND[mine_N], safe_N[mine_N])
        lines.append(
            Line(
                language,
                len(np.unique(prompt_N[mine_N])),
                _bootstrap(of_each_N, prompt_N[mine_N], random),
                (right / int(tried_N.sum()), *wilson(right, int(tried_N.sum()))),
            )
        )
    return lines


def _bootstrap(values_N: np.ndarray, prompt_N: np.ndarray, random: np.random.Generator) -> tuple[float, float, float]:
    """The mean over prompts, and its 95 % interval by drawing prompts again; the distances stay as they are."""
    _, of_prompt_N = np.unique(prompt_N, return_inverse=True)
    means = np.bincount(of_prompt_N, values_N) / np.bincount(of_prompt_N)
    drawn = means[random.integers(0, len(means), (RESAMPLES, len(means)))].mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(means.mean()), float(low), float(high)


def format_lines(tables: dict[str, list[Line]]) -> str:
    """Label -> table, side by side, a line a language."""
    head = "language  prompts" + "".join(f"  {f'silhouette, {label}':>26}  {f'probe, {label}':>24}" for label in tables)
    rows = [head]
    for lines in zip(*tables.values(), strict=True):
        cells = "".join(
            f"  {f'{s:+.3f} [{a:+.3f}, {b:+.3f}]':>26}  {f'{p:.1%} [{c:.1%}, {d:.1%}]':>24}"
            for (s, a, b), (p, c, d) in ((line.silhouette, line.accuracy) for line in lines)
        )
        rows.append(f"{lines[0].language:<8}  {lines[0].prompts:>7}{cells}")
    return "\n".join(rows)


def as_json(lines: Sequence[Line]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(line) for line in lines]
