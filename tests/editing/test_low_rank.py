"""The closed-form edit against its formula written plainly, and against a direct minimisation."""

import numpy as np
import pytest

from mpo_jax.editing.low_rank import LowRankEdit, Penalty
from mpo_jax.errors import InputError

SHAPES = [  # harmful prompts, harmless prompts, width, neurons
    (40, 30, 12, 7),  # more prompts than the width
    (6, 5, 24, 9),  # fewer: the inverse of a small matrix
    (30, 3, 8, 20),  # more neurons than the width
    (12, 12, 24, 1),
    (10, 14, 24, 10),  # exactly as many prompts as the width
]


def problem(shape, seed=0):
    n, s, width, neurons = shape
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, width)), draw.normal(size=(n, neurons)), draw.normal(size=(s, width))


def plainly(x, y, safe, rank, gamma, lam):
    """M = Q^-1 X^T Y, R^T R = Q, the leading part of the singular value decomposition of R M, taken back by R^-1."""
    q = x.T @ x + gamma * safe.T @ safe + lam * np.eye(x.shape[1])
    r = np.linalg.cholesky(q).T
    u, s, vt = np.linalg.svd(np.linalg.inv(r).T @ x.T @ y, full_matrices=False)
    return np.linalg.inv(r) @ (u[:, :rank] * s[:rank]) @ vt[:rank]


def cost(dw, x, y, safe, gamma, lam):
    return np.sum((x @ dw - y) ** 2) + gamma * np.sum((safe @ dw) ** 2) + lam * np.sum(dw**2)


def lambda_of(penalty, x, safe):
    return penalty.ridge * (np.sum(x**2) + penalty.gamma * np.sum(safe**2)) / x.shape[1]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("penalty", [Penalty(), Penalty(gamma=0.3, ridge=0.5), Penalty(gamma=0.0, ridge=1e-3)], ids=str)
def test_it_is_the_formula(shape, penalty):
    x, y, safe = problem(shape)
    for rank in {1, (shape[3] + 1) // 2, shape[3]}:
        left, right = LowRankEdit(x, safe, penalty)(y, None if rank == shape[3] else rank)
        assert left.shape == (shape[2], rank) and right.shape == (rank, shape[3])
        expected = plainly(x, y, safe, rank, penalty.gamma, lambda_of(penalty, x, safe))
        assert np.linalg.norm(left @ right - expected) < 1e-8 * np.linalg.norm(expected)


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_no_direct_minimisation_finds_less(shape):
    """Alternating least squares from twenty starts."""
    x, y, safe = problem(shape, seed=1)
    penalty, rank = Penalty(gamma=0.7, ridge=0.05), 3
    gamma, lam = penalty.gamma, lambda_of(penalty, x, safe)
    left, right = LowRankEdit(x, safe, penalty)(y, rank)
    ours = cost(left @ right, x, y, safe, gamma, lam)
    q = x.T @ x + gamma * safe.T @ safe + lam * np.eye(shape[2])
    lowest = np.inf
    for start in range(20):
        b = np.random.default_rng(start).normal(size=(rank, shape[3]))
        for _ in range(200):
            a = np.linalg.solve(q, x.T @ y @ b.T) @ np.linalg.inv(b @ b.T)
            b = np.linalg.solve(a.T @ q @ a, a.T @ x.T @ y)
        lowest = min(lowest, cost(a @ b, x, y, safe, gamma, lam))
    assert ours <= lowest * (1 + 1e-9)
    assert ours == pytest.approx(lowest, rel=1e-6), "twenty starts found the same minimum"


def test_harmless_inputs_hold_the_outputs_in_place():
    x, y, safe = problem((40, 10, 24, 6))
    change = []
    for gamma in (0.0, 1.0, 1000.0):
        left, right = LowRankEdit(x, safe, Penalty(gamma, 1e-6))(y, 6)
        change.append(np.linalg.norm(safe @ left @ right))
    assert change[0] > change[1] > 50 * change[2] > 0


def test_bad_input_is_a_sentence():
    x, y, safe = problem((6, 5, 24, 9))
    with pytest.raises(InputError, match=r"rank=10 .* 9"):
        LowRankEdit(x, safe, Penalty())(y, 10)
    with pytest.raises(InputError, match="gamma=-1"):
        Penalty(gamma=-1)
    twice = np.concatenate([x, x])
    with pytest.raises(InputError, match=r"The 17 x 17 matrix .* not positive definite with lambda=0 .*raise ridge"):
        LowRankEdit(twice, safe, Penalty(ridge=0.0))
