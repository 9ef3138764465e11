"""What did a judge say of each exchange? It is asked as a model is, so its replies are kept, and none is asked for twice.

A reply that is no verdict stays what it is, `unparsed`: it is counted, never scored, and its text is kept with the verdicts.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mpo_jax.clients.judges.base import Judge
from mpo_jax.data.prompts.base import Prompt
from mpo_jax.evaluation.safety.exchanges import Exchange, Reading
from mpo_jax.generation.run import Summary, answered, complete, generate

UNPARSED = "unparsed"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`said`: a verdict of the judge's scale, or `UNPARSED`, or None where nothing was said, and `missing` says why."""

    exchange: Exchange
    said: str | None
    missing: str | None = None


def judge_all(found: Sequence[Exchange], read: Sequence[Reading], judge: Judge, folder: Path) -> Summary | None:
    """Writes what `folder` lacks of the replies to these readings; None where it lacks none. Errors: those of `generate`."""
    prompts = [prompt for prompt in _prompts(found, read, judge) if prompt is not None]
    return None if complete(prompts, folder) else generate(prompts, judge.responder(), folder)


def verdicts(found: Sequence[Exchange], read: Sequence[Reading], judge: Judge, folder: Path) -> list[Verdict]:
    """Of every exchange that this judge has anything to say about. Errors: those of `read_responses`."""
    prompts = _prompts(found, read, judge)
    asked = [prompt for prompt in prompts if prompt is not None]
    replies = (
        {(request.prompt.language, request.prompt.id): record for request, record in answered(asked, folder)} if asked else {}
    )
    said = []
    for one, reading, prompt in zip(found, read, prompts, strict=True):
        if prompt is None:
            if reading.missing is not None:
                said.append(Verdict(one, None, reading.missing))
            continue
        record = replies[prompt.language, prompt.id]
        if record is None:
            said.append(Verdict(one, None, "not judged yet"))
        elif record.stopped == "error":
            said.append(Verdict(one, None, f"no verdict: {record.error}"))
        else:
            said.append(Verdict(one, judge.parse(record.text) or UNPARSED))
    return said


def _prompts(found: Sequence[Exchange], read: Sequence[Reading], judge: Judge) -> list[Prompt | None]:
    """What the judge is asked about each exchange; None where it is not."""
    prompts: list[Prompt | None] = []
    for one, reading in zip(found, read, strict=True):
        messages = judge.messages(reading.query, reading.response)
        asked = reading.missing is None and judge.judges(messages)
        prompts.append(Prompt(one.name, one.language, messages) if asked else None)
    return prompts
