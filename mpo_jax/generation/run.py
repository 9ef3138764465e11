"""How is every prompt answered once, however often a run is cut short?

The turns of a conversation follow one another: all first answers are written, then all second ones, whose conversations hold the
first. Where a turn met an error, the later ones are records of that error, until a later run has an answer to it. So a finished
run has a record for each prompt, sample and turn.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.devices import processes
from mpo_jax.generation.base import Request, Responder, Response
from mpo_jax.generation.records import SETTINGS, Record, Records, Slot, read_responses, read_settings


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a folder holds for the prompts of a run. `stopped`: number of records by how they end. `errors`: number by reason.
    `new_tokens`, where they are known, and `seconds` are of this run alone, of all its processes together."""

    stopped: dict[str, int]
    errors: dict[str, int]
    new_tokens: int
    seconds: float

    def sentence(self) -> str:
        ended, length, failed = (self.stopped.get(how, 0) for how in ("end", "length", "error"))
        said = f"{ended + length} answers: {ended} ended, {length} reached the limit of tokens; {failed} errors. "
        said += f"This run: {self.new_tokens} new tokens in {self.seconds:.0f} s ({self.new_tokens / self.seconds:.0f} tokens/s)."
        if self.errors:
            reason, count = max(self.errors.items(), key=lambda item: item[1])
            said += f" Most often ({count}): {reason}. The same command tries the errors again."
        return said


def generate(prompts: Sequence[Prompt], responder: Responder, folder: Path, *, samples: int = 1, tokens: bool = False) -> Summary:
    """Writes what `folder` lacks of `samples` answers to each prompt (see `records`). `tokens`: with their ids, where the
    responder knows them.

    All processes call it together. Each answers every count-th prompt and sample; or, if the responder is shared, all answer
    all, and the first one writes. Errors: those of `Records` and of the responder; processes that do not agree.
    """
    began = time.monotonic()
    conversations = [Conversation(prompt, sample) for prompt in prompts for sample in range(samples)]
    assert len({conversation.slot(0) for conversation in conversations}) == len(conversations), "a prompt comes twice"
    records = Records(folder, responder.settings, tokens=tokens, writes=processes.first() or not responder.shared)
    before = dict(records.known)
    asked = [(c.prompt.id, c.prompt.language, [vars(m) for m in c.prompt.messages], c.prompt.follow_ups) for c in conversations]
    keys = [record.key for record in before.values()]
    processes.agree({"settings": [responder.settings, samples], "prompts": asked, f"answers in {folder}": keys})
    own = conversations if responder.shared else conversations[jax.process_index() :: jax.process_count()]
    with contextlib.closing(records):
        _answer(own, responder, records)
    records.gather()
    known = {record.slot: record for record in read_responses(folder)}
    wanted = [known[c.slot(turn)] for c in conversations for turn in range(c.turns)]
    return _summary(wanted, before, time.monotonic() - began)


def answered(prompts: Sequence[Prompt], folder: Path, *, samples: int = 1) -> list[tuple[Request, Record | None]]:
    """What `generate` would ask for these prompts with the settings of `folder`, each with its record: None where there is none,
    or only one of another conversation. A turn after one without a record is left out. Errors: those of `read_responses`."""
    records = read_responses(folder)
    known, settings = {record.slot: record for record in records}, read_settings(folder)
    found: list[tuple[Request, Record | None]] = []
    for conversation in (Conversation(prompt, sample) for prompt in prompts for sample in range(samples)):
        for turn in range(conversation.turns):
            request, _ = conversation.request(turn, known, settings)
            record = known.get(conversation.slot(turn))
            found.append((request, record if record is not None and record.key == request.key else None))
            if found[-1][1] is None:
                break
    return found


def complete(prompts: Sequence[Prompt], folder: Path, *, samples: int = 1) -> bool:
    """Whether `folder` has an answer that is no error to each of these, with its own settings, so that nobody need be asked."""
    if not prompts:
        return True
    if not (folder / SETTINGS).is_file():
        return False
    return all(record is not None and record.stopped != "error" for _, record in answered(prompts, folder, samples=samples))


@dataclasses.dataclass(frozen=True)
class Conversation:
    """One sample of the answers to a prompt and its follow-ups."""

    prompt: Prompt
    sample: int

    @property
    def turns(self) -> int:
        return 1 + len(self.prompt.follow_ups)

    def slot(self, turn: int) -> Slot:
        return self.prompt.language, self.prompt.id, self.sample, turn

    def request(self, turn: int, known: dict[Slot, Record], settings: dict[str, Any]) -> tuple[Request, str | None]:
        """What is asked at this turn, after the known answers to the earlier ones; and why it cannot be asked, if one of them is
        an error, in whose place the conversation has an empty message."""
        messages, failed = list(self.prompt.messages), None
        for earlier, follow_up in enumerate(self.prompt.follow_ups[:turn]):
            record = known[self.slot(earlier)]
            if record.stopped == "error":
                failed = failed or f"turn {earlier} of this conversation has no answer"
            messages += [Message("assistant", "" if failed else record.text), Message("user", follow_up)]
        facts = [settings, *self.slot(turn), [[message.role, message.content] for message in messages], failed]
        canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        key = hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()
        return Request(self.prompt, self.sample, turn, tuple(messages), key), failed


def _answer(conversations: Sequence[Conversation], responder: Responder, records: Records) -> None:
    """Every turn of these conversations that `records` lacks, under one progress bar."""
    began, new_tokens = time.monotonic(), 0
    turns = max((conversation.turns for conversation in conversations), default=0)
    with processes.progress(total=sum(c.turns for c in conversations), desc="generate", unit="answer") as bar:
        for turn in range(turns):
            open_here = [c for c in conversations if turn < c.turns]
            requests = [conversation.request(turn, records.known, records.settings) for conversation in open_here]
            for request, failed in requests:
                if failed and not _has(records, request):
                    records.write(request, Response("", "error", None, None, error=failed))
            missing = [request for request, failed in requests if not failed and not _has(records, request, answered=True)]
            bar.total -= len(requests) - len(missing)
            bar.refresh()
            if responder.shared:
                processes.agree({f"requests of turn {turn}": [request.key for request in missing]})
            left = {request.key for request in missing}
            for request, response in responder.respond(missing):
                left.remove(request.key)
                records.write(request, response)
                new_tokens += response.new_tokens or 0
                rate = new_tokens / (time.monotonic() - began)
                bar.set_postfix_str(f"{rate:.0f} new tokens/s", refresh=False)
                bar.update()
            assert not left, f"{len(left)} of {len(missing)} requests were not answered"


def _has(records: Records, request: Request, *, answered: bool = False) -> bool:
    """Whether the record that counts is of this very request, and with `answered` whether it is no error."""
    slot = request.prompt.language, request.prompt.id, request.sample, request.turn
    record = records.known.get(slot)
    return record is not None and record.key == request.key and not (answered and record.stopped == "error")


def _summary(wanted: Iterable[Record], before: dict[Slot, Record], seconds: float) -> Summary:
    stopped = collections.Counter(record.stopped for record in wanted)
    errors = collections.Counter(record.error or "" for record in wanted if record.stopped == "error")
    fresh = [record for record in wanted if before.get(record.slot) != record]
    return Summary(dict(stopped), dict(errors), sum(record.new_tokens or 0 for record in fresh), seconds)
