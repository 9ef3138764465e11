"""Which answers do people judge? A few of each language and model, mixed, so that nobody sees which model wrote one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mpo_jax.clients.judges.people import Row, write_sheet
from mpo_jax.errors import InputError
from mpo_jax.evaluation.safety.exchanges import Exchange, Reading


def sample_for_people(
    path: Path, count: int, answers: Mapping[str, tuple[Sequence[Exchange], Sequence[Reading]]], seed: int = 0
) -> int:
    """Writes a sheet of up to `count` answers, as many of each model and language as possible; returns how many it has.
    `answers`: label -> a model's exchanges and what a judge reads of them. Errors: a sheet that is there; a count below 1."""
    if count < 1:
        raise InputError(f"--sample-for-people {count} must be at least 1: the number of answers on the sheet.")
    if path.exists():
        raise InputError(f"{path} is there, perhaps with verdicts: give it as --judge people:{path}, or move it away.")
    random = np.random.default_rng(seed)
    groups: dict[tuple[str, str], list[Row]] = {}
    for label, (found, read) in answers.items():
        for one, reading in zip(found, read, strict=True):
            if reading.missing is None and one.response is not None:
                row = Row(one.language, one.id, reading.query, reading.response, one.response)
                groups.setdefault((label, one.language), []).append(row)
    queues = [[rows[i] for i in random.permutation(len(rows))] for rows in groups.values()]
    chosen: dict[str, Row] = {}  # the same answer of two models is judged once
    for rank in range(max(map(len, queues), default=0)):
        for queue in queues:
            if rank < len(queue) and len(chosen) < count:
                chosen.setdefault(queue[rank].key, queue[rank])
    rows = list(chosen.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sheet(path, [rows[i] for i in random.permutation(len(rows))])
    return len(rows)
