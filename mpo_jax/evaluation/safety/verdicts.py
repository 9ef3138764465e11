"""What did a judge say of each exchange? It is asked as a model is, so its replies are kept, and none is asked for twice.

The id of a question is a digest of it, so what two languages or samples have in common is asked once. A reply that is no verdict
stays what it is, `unparsed`: it is counted, never scored, and its text is kept with the verdicts.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from mpo_jax.clients.judges.base import Judge
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.evaluation.safety.exchanges import Exchange, Reading
from mpo_jax.generation.run import Summary, answered, complete, generate

UNPARSED = "unparsed"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`said`: a verdict of the judge's scale, or `UNPARSED`, or None where nothing was said, and `missing` says why. `reply`: the
    judge's words."""

    exchange: Exchange
    said: str | None
    missing: str | None = None
    reply: str | None = None

    def line(self) -> str:
        """As JSON, without the texts of the exchange."""
        one = self.exchange
        where = {"language": one.language, "id": one.id, "sample": one.sample, "turn": one.turn}
        return json.dumps({**where, "said": self.said, "missing": self.missing, "reply": self.reply}, ensure_ascii=False)


def judge_all(found: Sequence[Exchange], read: Sequence[Reading], judge: Judge, folder: Path) -> Summary | None:
    """Writes what `folder` lacks of the replies to these readings; None where it lacks none. Errors: those of `generate`."""
    prompts = _distinct(_prompts(read, judge))
    return None if complete(prompts, folder) else generate(prompts, judge.responder(), folder)


def verdicts(found: Sequence[Exchange], read: Sequence[Reading], judge: Judge, folder: Path) -> list[Verdict]:
    """Of every exchange that this judge has anything to say about. Errors: those of `read_responses`."""
    prompts = _prompts(read, judge)
    asked = _distinct(prompts)
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
            said.append(Verdict(one, judge.parse(record.text) or UNPARSED, reply=record.text))
    return said


def _prompts(read: Sequence[Reading], judge: Judge) -> list[Prompt | None]:
    """What the judge is asked about each exchange; None where it is not."""
    prompts: list[Prompt | None] = []
    for reading in read:
        messages = judge.messages(reading.query, reading.response)
        asked = reading.missing is None and judge.judges(messages)
        prompts.append(Prompt(_id(messages), reading.language, messages) if asked else None)
    return prompts


def _distinct(prompts: Sequence[Prompt | None]) -> list[Prompt]:
    return list({(prompt.language, prompt.id): prompt for prompt in prompts if prompt is not None}.values())


def _id(messages: tuple[Message, ...]) -> str:
    canonical = json.dumps([[message.role, message.content] for message in messages])
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()
