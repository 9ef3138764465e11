"""Which neurons of an MLP answer to harm? Those that are more active on harmful prompts than on harmless ones.

Safety neurons of Sparse Weight Editing (arXiv:2602.22554). A neuron's activation is its product with the MLP's input, before any
non-linearity, one number a prompt.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from mpo_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """How far a neuron must stand out, by either measure: `z`, standard deviations of the layer's neurons above their mean
    difference; `d`, Cohen's d of its two samples. Both one-sided."""

    z: float = 2.0
    d: float = 1.0


def safety_neurons(harmful_NF: np.ndarray, harmless_NF: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """Whether each neuron is one, bool (F,), from its activations on at least two harmful and two harmless prompts.

        delta_j = mean_harmful a_j - mean_harmless a_j
        z_j = (delta_j - mean delta) / std delta                 d_j = delta_j / s_pooled,j
        S = {j: z_j > z} union {j: d_j > d}

    The standard deviation of delta is that of the layer's population of neurons; the pooled one is unbiased. A measure whose
    standard deviation is 0 selects nothing.
    """
    n, m = len(harmful_NF), len(harmless_NF)
    if min(n, m) < 2:
        raise InputError(f"{n} harmful and {m} harmless prompts were given in one language: give at least two of each.")
    harmful_NF, harmless_NF = (x.astype(np.float64) for x in (harmful_NF, harmless_NF))
    delta_F = harmful_NF.mean(0) - harmless_NF.mean(0)
    variance_F = ((n - 1) * harmful_NF.var(0, ddof=1) + (m - 1) * harmless_NF.var(0, ddof=1)) / (n + m - 2)
    return _above(delta_F - delta_F.mean(), delta_F.std(), thresholds.z) | _above(delta_F, np.sqrt(variance_F), thresholds.d)


def _above(x_F: np.ndarray, std: np.ndarray, threshold: float) -> np.ndarray:
    """x / std > threshold, without a division by 0."""
    return (std > 0) & (x_F > threshold * std)


def overlap(of_language: Mapping[str, np.ndarray]) -> np.ndarray:
    """Jaccard's index of each two languages' neurons, |A and B| / |A or B|, (languages, languages); 0 where neither has any."""
    masks = np.stack(list(of_language.values())).astype(np.int64)
    both = masks @ masks.T
    sizes = masks.sum(1)
    either = sizes[:, None] + sizes[None, :] - both
    return both / np.maximum(either, 1)
