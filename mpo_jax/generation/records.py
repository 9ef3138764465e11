"""Which answers does a folder hold? One line each, appended as they come, so that nothing is lost and nothing is asked twice.

FOLDER/generation.json      the settings that all its answers were written with
FOLDER/responses.jsonl      a line for each answer
FOLDER/responses.N.jsonl    the lines of process N, which are appended to responses.jsonl at its end, or when the next run starts

A line is never changed. The last one of a language, prompt, sample and turn counts: a prompt that met an error is asked again,
and so is one whose text has changed.
"""

import dataclasses
import json
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args

import jax

from mpo_jax.devices import processes
from mpo_jax.errors import InputError
from mpo_jax.files.json_files import differences, write_json
from mpo_jax.files.paths import Lines, path_of, write
from mpo_jax.generation.base import Request, Response, Stopped

SETTINGS, RESPONSES = "generation.json", "responses.jsonl"

Slot = tuple[str, str, int, int]  # language, id of the prompt, sample, turn

# What the fields of a line are.
KINDS: dict[type | UnionType, tuple[str, ...]] = {
    str: ("id", "language", "text", "stopped", "key"),
    int: ("sample", "turn"),
    int | None: ("prompt_tokens", "new_tokens"),
}
OPTIONAL = {"error", "tokens", "top_logprobs"}  # left out where there are none


@dataclasses.dataclass(frozen=True)
class Record:
    """A line: an answer, and what was answered. `key`: that of its request, or of the conversation that an earlier error ended.
    `tokens`: ids, end token included, in a folder that keeps them. `top_logprobs`: see `Response`."""

    id: str
    language: str
    sample: int
    turn: int
    text: str
    stopped: Stopped
    prompt_tokens: int | None
    new_tokens: int | None
    key: str
    error: str | None = None
    tokens: tuple[int, ...] | None = None
    top_logprobs: dict[str, float] | None = None

    @classmethod
    def of(cls, request: Request, response: Response, *, tokens: bool) -> Self:
        """`tokens`: whether the ids are kept."""
        answer = {field.name: getattr(response, field.name) for field in dataclasses.fields(response)}
        if not tokens:
            answer["tokens"] = None
        prompt = request.prompt
        return cls(prompt.id, prompt.language, request.sample, request.turn, key=request.key, **answer)

    @property
    def slot(self) -> Slot:
        return self.language, self.id, self.sample, self.turn

    def line(self) -> str:
        """JSON without the fields of `OPTIONAL` that are None. Half a surrogate pair, which is no text, stays an escape."""
        fields = {name: value for name, value in vars(self).items() if value is not None or name not in OPTIONAL}
        return json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()

    @classmethod
    def read(cls, line: bytes) -> Self:
        """Errors: ValueError, in words, where this is not such a line."""
        fields = json.loads(line.decode())
        if not isinstance(fields, dict):
            raise ValueError(f"it is {fields!r:.50}")
        names = {field.name for field in dataclasses.fields(cls)}
        if odd := [*(names - OPTIONAL - fields.keys()), *(fields.keys() - names)]:
            raise ValueError(f"it {'lacks' if odd[0] in names else 'has'} '{odd[0]}'")
        for kind, names in KINDS.items():
            if wrong := [name for name in names if not isinstance(fields[name], kind)]:
                raise ValueError(f"'{wrong[0]}' is {fields[wrong[0]]!r:.50}")
        if fields["stopped"] not in get_args(Stopped):
            raise ValueError(f"'stopped' is {fields['stopped']!r:.50}")
        return cls(**{**fields, "tokens": tuple(fields["tokens"]) if "tokens" in fields else None})


class Records:
    """Owns the lines of this process in `folder`. `known`: the record that counts of each slot, those just written included.
    `settings`: those in generation.json, which keys are made of.

    All processes make one together. `settings`: everything that determines an answer beside its conversation, as JSON. `tokens`:
    whether token ids are kept. `writes`: whether this process writes. Errors, in all processes: a file in the folder's place, a
    folder of something else or of other settings, a broken line.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], *, tokens: bool, writes: bool):
        facts = json.loads(json.dumps({"settings": settings, "tokens": tokens}))
        self.settings: dict[str, Any] = processes.on_first(lambda: _prepare(folder, facts))["settings"]
        self.folder, self._tokens = folder, tokens
        self.known = {record.slot: record for record in read_responses(folder)}
        index = jax.process_index()
        self._lines = Lines(folder / (f"responses.{index}.jsonl" if index else RESPONSES)) if writes else None

    def write(self, request: Request, response: Response) -> None:
        record = Record.of(request, response, tokens=self._tokens)
        self.known[record.slot] = record
        if self._lines is not None:
            self._lines.write(record.line())

    def close(self) -> None:
        """The lines so far can be read by other processes."""
        if self._lines is not None:
            self._lines.close()

    def gather(self) -> None:
        """After `close`. Returns in all processes when responses.jsonl has the lines of all."""
        processes.wait("all answers are written", processes.DAY)
        processes.on_first(lambda: _fold(self.folder))


def read_responses(folder: str | Path) -> list[Record]:
    """What the folder's answers are, those of a run that has not ended included: the record that counts of each language, prompt,
    sample and turn, in this order. Errors: no answers there, a broken line."""
    folder = path_of(folder)
    _check(folder)
    paths = [path for path in (folder / RESPONSES, *_parts(folder)) if path.exists()]
    known = {record.slot: record for path in paths for record in _read(path)}
    return [known[slot] for slot in sorted(known)]


def read_settings(folder: Path) -> dict[str, Any]:
    """Those that all answers of the folder were written with. Errors: no answers there, settings that are not JSON."""
    _check(folder)
    return _kept(folder / SETTINGS)["settings"]


def _check(folder: Path) -> None:
    if not (folder / SETTINGS).is_file():
        raise InputError(f"{folder} has no {SETTINGS}: give the --output folder of `python -m mpo_jax.generate`.")


def _kept(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): give another folder for the answers.") from None


def _read(path: Path) -> list[Record]:
    records = []
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            records.append(Record.read(line))
        except ValueError as error:
            raise InputError(
                f"{path}, line {number} is not an answer ({error}): take this line out, and the command that wrote it "
                "writes it again."
            ) from None
    return records


def whole_lines(path: Path) -> list[bytes]:
    """Without their ends, and without a last line that a kill cut short. Only \\n ends a line: a text may have what Unicode calls
    line separators."""
    *lines, last = path.read_bytes().split(b"\n")
    return [*lines, last] if _is_json(last) else lines


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _parts(folder: Path) -> list[Path]:
    """The files of the other processes, and not those that another program may have put beside them."""
    return sorted(path for path in folder.glob("responses.*.jsonl") if path.name.split(".")[1].isdigit())


def _prepare(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """A new folder, or the one of an earlier run with the same facts, with all its lines in one file. Its facts, as the first
    run wrote them: 0 may be 0.0 in another's."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give a folder for the answers.")
    path = folder / SETTINGS
    if path.exists():
        kept = _kept(path)
        if difference := differences(kept, facts):
            raise InputError(
                f"{folder} holds answers of other settings: {'; '.join(difference)}; give another folder for the answers, or the "
                "settings of these."
            )
        _fold(folder)
        return kept
    if folder.exists() and (others := sorted(path.name for path in folder.iterdir() if path.suffix != ".partial")):
        raise InputError(f"{folder} is a folder of something else ({others[0]}): give a new folder for the answers.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, facts)
    return facts


def _fold(folder: Path) -> None:
    """All whole lines come to lie in responses.jsonl, which is replaced at once, and only then do the other files go."""
    path, parts = folder / RESPONSES, _parts(folder)
    paths = [*([path] if path.exists() else []), *parts]
    whole = b"".join(line + b"\n" for part in paths for line in whole_lines(part))
    if parts or (path.exists() and path.read_bytes() != whole):
        write(path, whole)
    for part in parts:
        part.unlink()
