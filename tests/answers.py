"""Scores of three pairs of answers, made by hand, for tests of methods."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from mpo_jax.losses.base import numbers_of
from mpo_jax.types import Pair, RowLoss, Scores, SequenceScores

COUNTS = np.asarray([[9, 1, 22], [4, 21, 1]], np.float32)  # tokens of the chosen and the rejected answers
POLICY = np.asarray([[-20.0, -3.0, -50.0], [-9.0, -45.0, -0.5]], np.float32)
REFERENCE = np.asarray([[-22.0, -2.5, -48.0], [-8.0, -47.0, -0.7]], np.float32)


def pair(logp, counts=COUNTS) -> Pair:
    chosen, rejected = (SequenceScores(jnp.asarray(x), jnp.asarray(c)) for x, c in zip(logp, counts, strict=True))
    return Pair(dataclasses.replace(chosen, batch_mean_count=jnp.mean(chosen.count_B)), rejected)


def scores(logp, counts=COUNTS, mismatch=POLICY, side="target") -> Scores:
    return Scores(**{side: pair(logp, counts)}, mismatch=pair(mismatch, counts))


def rows_of(method, policy: Scores, reference: Scores) -> RowLoss:
    """What a method says with its own numbers."""
    return method(policy, reference, **numbers_of(method))


def loss_B(method, policy=POLICY, reference=REFERENCE, counts=COUNTS):
    return np.asarray(rows_of(method, scores(policy, counts), scores(reference, counts, mismatch=REFERENCE)).loss_B, np.float64)
