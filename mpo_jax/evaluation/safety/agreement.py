"""Do two judges say the same of the same exchanges? A table of who said what, and Cohen's kappa.

J. Cohen, "A Coefficient of Agreement for Nominal Scales", Educational and Psychological Measurement 20, 1960: the agreement
beyond that of two judges who know the frequencies alone. Judges with different verdicts are compared on unsafe or not.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mpo_jax.clients.judges.base import Scale
from mpo_jax.errors import InputError
from mpo_jax.evaluation.safety.verdicts import UNPARSED, Verdict


@dataclasses.dataclass(frozen=True)
class Agreement:
    """`confusion[first][second]`: how many exchanges got these two verdicts, of the `count` that both gave one. `kappa` is None
    where each judge has said one and the same thing of all, or nothing."""

    first: str
    second: str
    count: int
    same: int
    kappa: float | None
    confusion: dict[str, dict[str, int]]


def agreement(first: tuple[str, Scale, Sequence[Verdict]], second: tuple[str, Scale, Sequence[Verdict]]) -> Agreement:
    """Of two judges, each with its name, scale, and verdicts on one model. Errors: scales that have no verdict in common."""
    (one, scale, said), (other, other_scale, also) = first, second
    words = scale.verdicts
    if scale.verdicts != other_scale.verdicts:
        if "unsafe" not in scale.verdicts or "unsafe" not in other_scale.verdicts:
            raise InputError(
                f"The judges '{one}' and '{other}' have no verdict in common ({', '.join(scale.verdicts)}; "
                f"{', '.join(other_scale.verdicts)}): compare two that say what is unsafe."
            )
        words = ("unsafe", "not unsafe")
    named = lambda word: word if word in words else "not unsafe"  # noqa: E731
    known = {verdict.exchange.slot: named(str(verdict.said)) for verdict in also if verdict.said not in (None, UNPARSED)}
    table = np.zeros((len(words), len(words)), int)
    for verdict in said:
        if verdict.said not in (None, UNPARSED) and verdict.exchange.slot in known:
            table[words.index(named(str(verdict.said))), words.index(known[verdict.exchange.slot])] += 1
    confusion = {word: dict(zip(words, map(int, row), strict=True)) for word, row in zip(words, table, strict=True)}
    return Agreement(one, other, int(table.sum()), int(np.trace(table)), _kappa(table), confusion)


def _kappa(table: np.ndarray) -> float | None:
    count = table.sum()
    if not count:
        return None
    by_chance = float(table.sum(axis=0) @ table.sum(axis=1)) / count**2
    return None if by_chance == 1 else float((np.trace(table) / count - by_chance) / (1 - by_chance))
