"""Which of several samples is chosen, and which rejected? Pure functions of scores: N prompts, K samples of each.

A score that is NaN is one that a sample does not have. The first of equals counts.
"""

import numpy as np

ALPHAS = np.arange(0, 1.0, 0.001)  # nats a character


def length_penalty(reward_NK: np.ndarray, length_NK: np.ndarray) -> float:
    """The alpha for which the best and the worst samples by reward - alpha * length differ least in length; the first of equals.

        D(alpha) = mean_n (length of the best - length of the worst),   alpha* = argmin |D(alpha)|

    Implicit Cross-Lingual Rewarding, arXiv:2503.04647, whose lengths are characters and whose grid is 0, 0.001 ... 0.999.
    `reward_NK`, nats, and `length_NK` are float64 [N, K]; every prompt needs a score."""
    rows = np.arange(len(reward_NK))
    gaps = []
    for alpha in ALPHAS:
        score_NK = reward_NK - alpha * length_NK
        best_N, worst_N = np.nanargmax(score_NK, axis=1), np.nanargmin(score_NK, axis=1)
        gaps.append(abs(np.mean(length_NK[rows, best_N] - length_NK[rows, worst_N])))
    return float(ALPHAS[int(np.argmin(gaps))])


def pair_of(score_K: np.ndarray, bound: float | None = None) -> tuple[int | None, int]:
    """(the best sample whose score is below the bound, None where there is none; the worst sample)."""
    allowed_K = score_K if bound is None else np.where(score_K < bound, score_K, np.nan)
    best = None if np.isnan(allowed_K).all() else int(np.nanargmax(allowed_K))
    return best, int(np.nanargmin(score_K))


def all_pairs(score_K: np.ndarray) -> list[tuple[int, int]]:
    """(better, worse) for every two samples whose scores differ, the best first. MAPO, arXiv:2401.06838."""
    order = [int(k) for k in np.argsort(-score_K, kind="stable") if not np.isnan(score_K[k])]
    return [(better, worse) for i, better in enumerate(order) for worse in order[i + 1 :] if score_K[better] > score_K[worse]]
