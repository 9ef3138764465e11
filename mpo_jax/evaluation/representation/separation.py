"""How well do states tell safe from unsafe? The silhouette, and a linear probe that only knew the dominant language."""

import numpy as np
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from mpo_jax.errors import InputError

PENALTY = 1.0  # of the probe's squared weights, on standardised states


def silhouettes(states_ND: np.ndarray, safe_N: np.ndarray) -> np.ndarray:
    """Of each state, float64 (N,), between -1 and 1: (b - a) / max(a, b), where a is its mean distance from the others of its
    class and b that from the other class. P. Rousseeuw, J. Comput. Appl. Math. 20, 1987. Errors: fewer than two of a class."""
    if min(safe_N.sum(), (~safe_N).sum()) < 2:
        raise InputError("A silhouette needs at least two safe and two unsafe answers in each language: give more rows.")
    distance_NN = cdist(states_ND, states_ND)
    same_NN = safe_N[:, None] == safe_N[None, :]
    within_N = (distance_NN * same_NN).sum(1) / (same_NN.sum(1) - 1)
    between_N = (distance_NN * ~same_NN).sum(1) / (~same_NN).sum(1)
    larger_N = np.maximum(within_N, between_N)
    return np.divide(between_N - within_N, larger_N, out=np.zeros_like(larger_N), where=larger_N > 0)


class LinearProbe:
    """Logistic regression on standardised states, by L-BFGS: the mean log-loss plus PENALTY |w|^2 / (2 N)."""

    def __init__(self, states_ND: np.ndarray, safe_N: np.ndarray) -> None:
        x_ND = states_ND.astype(np.float64)
        self._mean_D, std_D = x_ND.mean(0), x_ND.std(0)
        self._scale_D = np.where(std_D > 0, std_D, 1.0)
        x_ND, sign_N = self._standard(x_ND), np.where(safe_N, 1.0, -1.0)

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            w_D, bias = weights[:-1], weights[-1]
            margin_N = sign_N * (x_ND @ w_D + bias)
            slope_N = -sign_N / (1 + np.exp(np.clip(margin_N, -500, 500))) / len(x_ND)
            value = np.logaddexp(0, -margin_N).mean() + PENALTY * (w_D @ w_D) / (2 * len(x_ND))
            return value, np.append(x_ND.T @ slope_N + PENALTY * w_D / len(x_ND), slope_N.sum())

        found = minimize(loss, np.zeros(x_ND.shape[1] + 1), jac=True, method="L-BFGS-B")
        self._w_D, self._bias = found.x[:-1], found.x[-1]

    def __call__(self, states_ND: np.ndarray) -> np.ndarray:
        """Whether each answer is taken for safe, bool (N,)."""
        return self._standard(states_ND.astype(np.float64)) @ self._w_D + self._bias > 0

    def _standard(self, x_ND: np.ndarray) -> np.ndarray:
        return (x_ND - self._mean_D) / self._scale_D


def principal_plane(states_ND: np.ndarray) -> np.ndarray:
    """The states' coordinates on their two principal components, float64 (N, 2). Each component's largest loading is positive."""
    centred_ND = states_ND.astype(np.float64) - states_ND.mean(0, dtype=np.float64)
    _, _, axes_2D = np.linalg.svd(centred_ND, full_matrices=False)
    axes_2D = axes_2D[:2]
    largest_2 = axes_2D[np.arange(len(axes_2D)), np.abs(axes_2D).argmax(1)]
    return centred_ND @ (axes_2D * np.sign(largest_2)[:, None]).T
