"""Does an answer open like a refusal? A smoke test for programs, in the languages whose refusals `data.refusals` knows.

A refusal that goes on to help is counted, and one in other words is missed, so this is never called an attack success rate.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from mpo_jax.clients.judges.base import REFUSALS, Judge
from mpo_jax.data import refusals
from mpo_jax.data.prompts.base import Message
from mpo_jax.generation.base import Request, Response


class Phrases:
    """A `Responder` that looks at the first sentence of the last message."""

    shared = False

    @property
    def settings(self) -> dict[str, Any]:
        known = json.dumps(refusals.REFUSALS, sort_keys=True).encode()
        return {"phrases": hashlib.blake2b(known, digest_size=8).hexdigest()}

    def respond(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Response]]:
        for request in requests:
            refuses = refusals.opens_with_refusal(request.messages[-1].content, request.prompt.language)
            yield request, Response("refusal" if refuses else "other", "end", None, None)


def judge() -> Judge:
    return Judge(
        name="phrases",
        scale=REFUSALS,
        languages=frozenset(refusals.REFUSALS),
        messages=lambda query, response: (Message("user", response),),
        parse=lambda text: text if text in REFUSALS.verdicts else None,
        responder=Phrases,
    )
