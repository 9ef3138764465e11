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


def low_rank_edit(
    inputs_ND: np.ndarray, wanted_NM: np.ndarray, harmless_SD: np.ndarray, *, rank: int, penalty: Penalty
) -> tuple[np.ndarray, np.ndarray]:
    """The factors (D, rank) and (rank, M) of the change dW that minimises

        ||X dW - Y||^2 + gamma ||S dW||^2 + lambda ||dW||^2    subject to    rank(dW) <= rank,

    for inputs X (N, D), the wanted change Y (N, M) of their outputs, and harmless inputs S (S, D). With Q = X^T X + gamma S^T S +
    lambda I, the solution without a limit is Q^-1 X^T Y; the best of low rank keeps its leading right singular vectors in the norm
    of Q (Eckart and Young), the leading eigenvectors of the M x M matrix Y^T X Q^-1 X^T Y. Where there are fewer inputs than D,
    the inverse is that of a matrix of their number instead (Woodbury).

    Errors: a rank above M; a matrix that is not positive definite.
    """
    inputs_ND, wanted_NM, harmless_SD = (x.astype(np.float64) for x in (inputs_ND, wanted_NM, harmless_SD))
    width, neurons = inputs_ND.shape[1], wanted_NM.shape[1]
    if not 1 <= rank <= neurons:
        raise InputError(f"rank={rank} must lie between 1 and the number of neurons to edit, {neurons}.")
    all_AD = np.concatenate([inputs_ND, np.sqrt(penalty.gamma) * harmless_SD])
    ridge = penalty.ridge * np.square(all_AD).sum() / width
    if len(all_AD) < width:
        solved_AM = _solve(all_AD @ all_AD.T, ridge, np.pad(wanted_NM, ((0, len(harmless_SD)), (0, 0))))
        full_DM = all_AD.T @ solved_AM
    else:
        full_DM = _solve(all_AD.T @ all_AD, ridge, inputs_ND.T @ wanted_NM)
    gram_MM = (inputs_ND @ full_DM).T @ wanted_NM
    _, leading_MR = linalg.eigh((gram_MM + gram_MM.T) / 2, subset_by_index=(neurons - rank, neurons - 1))
    return full_DM @ leading_MR, leading_MR.T


def _solve(gram: np.ndarray, ridge: float, right: np.ndarray) -> np.ndarray:
    """(gram + ridge I)^-1 right, by Cholesky's decomposition."""
    regular = gram + ridge * np.eye(len(gram))
    try:
        return linalg.cho_solve(linalg.cho_factor(regular, lower=True), right)
    except linalg.LinAlgError:
        largest = float(np.abs(gram).max())
        raise InputError(
            f"The {len(gram)} x {len(gram)} matrix of the prompts' inputs is not positive definite with lambda={ridge:.3g} (its "
            f"largest entry is {largest:.3g}): raise ridge, to 0.001 or more, or give more prompts that differ."
        ) from None
