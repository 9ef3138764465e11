"""What did everybody outside say, and what would they say again? A file of every request and its answer, to record or to replay.

A line for each answer: {"key", "id", "language", "sample", "turn", "response"}. The key is the request's own digest, of settings
and conversation, so a recording answers what was asked of whom, and nothing else. It holds no conversation and no credentials.
While recording, what the file has is not asked again.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mpo_jax.errors import InputError
from mpo_jax.files.paths import Lines, write
from mpo_jax.generation.base import Request, Responder, Response
from mpo_jax.generation.records import whole_lines


class Recording:
    """Owns the file. `replays`: nobody is asked, and what the file lacks is an error. Errors: a file to replay that is not there;
    a broken line."""

    def __init__(self, path: Path, *, replays: bool):
        if replays and not path.is_file():
            raise InputError(f"--replay {path} does not exist: give a file that --record has written.")
        self.path, self.replays = path, replays
        self._known: dict[str, Response] = {}
        if path.exists():
            lines = whole_lines(path)
            for number, line in enumerate(lines, start=1):
                key, response = _read(line, f"{path}, line {number}")
                self._known[key] = response
            whole = b"".join(line + b"\n" for line in lines)
            if not replays and path.read_bytes() != whole:
                write(path, whole)  # without the line that a kill cut short
        self._lines: Lines | None = None

    def wrap(self, responder: Responder) -> "Recorded":
        return Recorded(responder, self)

    def answer(self, request: Request) -> Response | None:
        """Errors: no answer in a file that is replayed."""
        found = self._known.get(request.key)
        if found is None and self.replays:
            prompt = request.prompt
            which = f"'{prompt.id}' in '{prompt.language}' (sample {request.sample}, turn {request.turn})"
            raise InputError(
                f"{self.path} has no answer to {which}: record it with --record and the same options, or give those that it was "
                "recorded with."
            )
        return found

    def keep(self, request: Request, response: Response) -> None:
        """An error is not kept, since the same request may succeed."""
        if response.stopped == "error":
            return
        if self._lines is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lines = Lines(self.path)
        self._known[request.key] = response
        names = {"id": request.prompt.id, "language": request.prompt.language, "sample": request.sample, "turn": request.turn}
        line = json.dumps({"key": request.key, **names, "response": dataclasses.asdict(response)})
        self._lines.write(line)
        self._lines.flush()

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()


class Recorded:
    """A `Responder` whose answers come from a recording, or go into it."""

    shared = False

    def __init__(self, responder: Responder, recording: Recording):
        assert not responder.shared, "what this run computes itself is no outside call"
        self._responder, self._recording = responder, recording

    @property
    def settings(self) -> dict[str, Any]:
        return self._responder.settings

    def respond(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Response]]:
        unknown = []
        for request in requests:
            if (response := self._recording.answer(request)) is not None:
                yield request, response
            else:
                unknown.append(request)
        if unknown:
            for request, response in self._responder.respond(unknown):
                self._recording.keep(request, response)
                yield request, response


def _read(line: bytes, where: str) -> tuple[str, Response]:
    try:
        found = json.loads(line)
        response = found["response"]
        if isinstance(response.get("tokens"), list):
            response["tokens"] = tuple(response["tokens"])
        return str(found["key"]), Response(**response)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"{where} is no recorded answer: take this line out, and record again.") from None
