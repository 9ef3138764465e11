"""Which change of a weight, of low rank, brings some outputs where they should be and leaves others where they are?

The closed form of Sparse Weight Editing (arXiv:2602.22554, section "edit"), in float64.
"""

import dataclasses

import numpy as np
from scipy import linalg

from mpo_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Penalty:
    """What a change costs beside its error: `gamma` times the squared change of the harmless outputs, and lambda times its own
    squared size. lambda is `ridge` times the mean diagonal of X^T X + gamma S^T S, so that it means the same in every layer."""

    gamma: float = 1.0
    ridge: float = 0.01

    def __post_init__(self) -> None:
        if self.gamma < 0 or self.ridge < 0:
            raise InputError(f"gamma={self.gamma} and ridge={self.ridge} must not be negative.")


class LowRankEdit:
    """The changes dW of weights (D, M) that minimise

        ||X dW - Y||^2 + gamma ||S dW||^2 + lambda ||dW||^2    subject to    rank(dW) <= rank,

    for inputs X (N, D), the wanted change Y (N, M) of their outputs, and harmless inputs S (S, D). With
    Q = X^T X + gamma S^T S + lambda I, the solution without a limit is Q^-1 X^T Y. The best of low rank keeps its leading right
    singular vectors in the norm of Q (Eckart and Young), the leading eigenvectors of the M x M matrix Y^T X Q^-1 X^T Y. Where
    there are fewer inputs than D, the inverse is that of a matrix of their number instead (Woodbury). What does not depend on Y
    is computed once.

    Errors: a matrix that is not positive definite.
    """

    def __init__(self, inputs_ND: np.ndarray, harmless_SD: np.ndarray, penalty: Penalty) -> None:
        self._inputs_ND = inputs_ND.astype(np.float64)
        weighted_SD = np.sqrt(penalty.gamma) * harmless_SD.astype(np.float64)
        self._all_AD = np.concatenate([self._inputs_ND, weighted_SD])
        inputs, width = self._all_AD.shape
        self._dual = inputs < width
        gram = self._all_AD @ self._all_AD.T if self._dual else self._all_AD.T @ self._all_AD
        self._factor = _cholesky(gram, penalty.ridge * np.square(self._all_AD).sum() / width)

    def __call__(self, wanted_NM: np.ndarray, rank: int | None) -> tuple[np.ndarray, np.ndarray]:
        """The factors (D, rank) and (rank, M) of dW for Y; None = of full rank, M. Errors: a rank above M."""
        neurons = wanted_NM.shape[1]
        kept = neurons if rank is None else rank
        if not 1 <= kept <= neurons:
            raise InputError(f"rank={rank} must lie between 1 and the number of neurons to edit, {neurons}.")
        wanted_NM = wanted_NM.astype(np.float64)
        full_DM = self._full(wanted_NM)
        gram_MM = (self._inputs_ND @ full_DM).T @ wanted_NM
        _, leading_MR = linalg.eigh((gram_MM + gram_MM.T) / 2, subset_by_index=(neurons - kept, neurons - 1))
        return full_DM @ leading_MR, leading_MR.T

    def _full(self, wanted_NM: np.ndarray) -> np.ndarray:
        """The solution without a limit of the rank."""
        if not self._dual:
            return linalg.cho_solve(self._factor, self._inputs_ND.T @ wanted_NM)
        harmless = len(self._all_AD) - len(wanted_NM)  # whose outputs are to change by 0
        return self._all_AD.T @ linalg.cho_solve(self._factor, np.pad(wanted_NM, ((0, harmless), (0, 0))))


def _cholesky(gram: np.ndarray, ridge: float) -> tuple[np.ndarray, bool]:
    """Of gram + ridge I, for `linalg.cho_solve`."""
    try:
        return linalg.cho_factor(gram + ridge * np.eye(len(gram)), lower=True)
    except linalg.LinAlgError:
        largest = float(np.abs(gram).max())
        raise InputError(
            f"The {len(gram)} x {len(gram)} matrix of the prompts' inputs is not positive definite with lambda={ridge:.3g} (its "
            f"largest entry is {largest:.3g}): raise ridge, to 0.001 or more, or give more prompts that differ."
        ) from None
