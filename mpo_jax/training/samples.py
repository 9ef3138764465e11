"""What does the model write while it trains? Greedy answers to the same prompts each time, in OUTPUT/samples.jsonl.

The weights of the moment are copied to a mesh for generation on the run's own devices, and the copy is freed again. A line is
never changed; of a run that is resumed, those after its checkpoint are dropped, since they are written again.
"""

import contextlib
import dataclasses
import json
import time
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import jax
from jax.sharding import Mesh

from mpo_jax.data.conversation import Conversation
from mpo_jax.data.dataset import Data
from mpo_jax.data.prompts.base import Prompt
from mpo_jax.data.prompts.preference_rows import prompts_of_rows
from mpo_jax.data.prompts.registry import first_of_each_language, read_prompts
from mpo_jax.devices import processes
from mpo_jax.devices.sharding import make_generation_mesh, slices
from mpo_jax.errors import InputError
from mpo_jax.files.paths import Lines
from mpo_jax.generation.base import Decoding, Request, Response
from mpo_jax.generation.engine import Engine
from mpo_jax.generation.mesh_choice import possible
from mpo_jax.generation.weights import abstract_placed, placed
from mpo_jax.models.decoder import Model
from mpo_jax.telemetry.memory import bytes_on
from mpo_jax.telemetry.writers import keep_until
from mpo_jax.types import SIDES, Params

NAME = "samples.jsonl"
BATCH_SIZE = 64  # answers that are written together
SHOWN = 300  # characters of a text that are shown of it
WIDTH = 20  # of the words that say when

Line = dict[str, Any]  # of the file


@dataclasses.dataclass
class SamplesConfig:
    """Answers to read while a model trains, greedy, before the first update and after the last.

    `prompts`: a file of prompts (docs/prompts.md); '' = those of the held-out rows, source and target side. In a conversation
    only the first answer is written. `limit`: only the first so many prompts of each language. `every`: updates between samples
    (0 = only before and after training). `max_new_tokens`: most tokens of an answer. `tensor`: devices over which a copy of the
    weights is split; None = as many as divide the model, which takes least memory."""

    prompts: str = ""
    limit: int = 2
    every: int = 0
    max_new_tokens: int = 128
    tensor: int | None = None

    def __post_init__(self) -> None:
        for name, lowest in {"limit": 1, "every": 0, "max_new_tokens": 1}.items():
            if getattr(self, name) < lowest:
                raise InputError(f"samples.{name}={getattr(self, name)} must be at least {lowest}.")


def prompts_of(config: SamplesConfig, data: Data) -> list[Prompt]:
    """Those that are answered. Errors: those of `read_prompts`; no file where no rows are held out."""
    if config.prompts:
        return read_prompts(config.prompts, limit=config.limit)
    if data.held_out is None:
        raise InputError(
            "samples would answer the prompts of held-out rows, but this run holds none out: write "
            "--config.samples.prompts=FILE, hold rows out with data.eval_fraction or data.eval_path, or write "
            "--config.samples=none."
        )
    found = {}
    for side in SIDES:
        for prompt in prompts_of_rows(data.measured, side):
            found.setdefault((prompt.language, prompt.id), prompt)
    return first_of_each_language(config.limit, found.values())


def mesh_for(config: SamplesConfig, model: Model, devices: Sequence[Any]) -> Mesh:
    """All of the run's devices; copies of the weights are never split across TPU slices. Errors: a `tensor` that does not divide
    the model."""
    options = possible(model, len(devices) // slices(devices))
    tensor = options[-1] if config.tensor is None else config.tensor
    if tensor not in options:
        raise InputError(
            f"samples.tensor={tensor} does not divide the heads, layers and vocabulary of this model, or the {len(devices)} "
            f"devices: choose among {', '.join(map(str, options))}, or leave it out."
        )
    return make_generation_mesh(width=1, tensor=tensor, devices=devices)


class Samples:
    """The requests of a run, and the programs that answer them. All processes call it together; the first one writes."""

    def __init__(
        self,
        config: SamplesConfig,
        prompts: Sequence[Prompt],
        conversation: Conversation,
        model: Model,
        devices: Sequence[Any],
        dtype: Any,
        positions: int | None,
    ):
        """`dtype` is that of the computation; `positions`: how many tokens the model can read, or None. Errors: those of
        `mesh_for`; a prompt that is too long; processes that were given different prompts."""
        self._every, self._model, self._dtype = config.every, model, dtype
        self._requests = [Request(p, 0, 0, p.messages, str(i)) for i, p in enumerate(prompts)]
        asked = [(p.language, p.id, [vars(message) for message in p.messages]) for p in prompts]
        processes.agree({"prompts of samples": asked})
        self._mesh = mesh_for(config, model, devices)
        self._engine = Engine(
            model,
            abstract_placed(model, self._mesh, dtype),
            self._mesh,
            conversation,
            Decoding(max_new_tokens=config.max_new_tokens),
            batch_size=BATCH_SIZE,
            known={},
            positions=positions,
            shared=jax.process_count() > 1,
        )
        for request in self._requests:
            self._engine.asked(request)  # a prompt that is too long is an error before anything is trained
        self._shown = _two([prompt.language for prompt in prompts])
        self._told = False
        self._lines: Lines | None = None

    @contextlib.contextmanager
    def writing(self, folder: Path, start: int) -> Iterator[Self]:
        """Within, `folder` gets the answers. Lines after update `start` are dropped: this run writes them again."""
        if processes.first():
            path = folder / NAME
            if path.exists():
                keep_until(path, start or -1)  # a run from scratch writes those of update 0 again
            self._lines = Lines(path)
        try:
            yield self
        finally:
            if self._lines is not None:
                self._lines.close()
                self._lines = None

    def due(self, update: int, last: int) -> bool:
        return update in (0, last) or (self._every > 0 and update % self._every == 0)

    def write(self, update: int, params: Params) -> list[str]:
        """Answers with these parameters, as the model declares them on the run's mesh. Returns what to tell the user: two of the
        answers, and the first time what they cost."""
        begin = time.perf_counter()
        with jax.set_mesh(self._mesh):
            weights = placed(self._model, params, self._mesh, self._dtype, consume=False)
        jax.block_until_ready(weights)
        moved = time.perf_counter() - begin
        with self._engine.holding(weights):
            answers = {request.key: response for request, response in self._engine.respond(self._requests)}
            memory = bytes_on(self._engine.held)
        lines = [_line(update, request.prompt, answers[request.key]) for request in self._requests]
        if self._lines is not None:
            for line in lines:
                self._lines.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace").decode())
        said = [f"update {update}, {_exchange(lines[i])}" for i in self._shown]
        if not self._told:
            self._told = True
            tensor, took = self._mesh.shape["tensor"], time.perf_counter() - begin
            said.append(
                f"samples: {len(lines)} answers in {took:.1f} s with compilation, {moved:.1f} s of them to copy the weights to "
                f"tensor={tensor}; {memory / 1e9:.3g} GB of each device, free again"
            )
        return said

    def flush(self) -> None:
        """Returns when the lines so far would survive this process."""
        if self._lines is not None:
            self._lines.flush()


def _line(update: int, prompt: Prompt, response: Response) -> Line:
    known = {"step": update, "id": prompt.id, "language": prompt.language, "prompt": prompt.messages[-1].content}
    return known | {"text": response.text, "stopped": response.stopped, "new_tokens": response.new_tokens}


def _two(languages: Sequence[str]) -> list[int]:
    """Which prompts are shown: the first, and the first in another language or else the second."""
    others = [i for i, language in enumerate(languages) if language != languages[0]]
    return [0, *(others or range(1, len(languages)))[:1]]


def compared(folder: Path) -> str:
    """What a model wrote at first and at last, to the first prompt of each language; "" where `folder` has no samples."""
    path = folder / NAME
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line] if path.exists() else []
    if not lines:
        return ""
    steps = sorted({line["step"] for line in lines})
    last = [line for line in lines if line["step"] == steps[-1]]
    asked = {line["language"]: (line["language"], line["id"], line["prompt"]) for line in reversed(last)}
    parts = []
    for language, key in reversed(asked.items()):
        parts.append(f"{language}  {shown(key[-1])}")
        for line in lines:
            if line["step"] in (steps[0], steps[-1]) and (line["language"], line["id"], line["prompt"]) == key:
                when = f"after update {line['step']}" if line["step"] else "before training"
                parts.append(f"    {when + ':':<{WIDTH}}{shown(line['text'])}")
    return "\n".join(parts)


def shown(text: str) -> str:
    """On one line, without control characters, and not too long."""
    line = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    line = " ".join(line.split())
    return line if len(line) <= SHOWN else line[:SHOWN] + " ..."


def _exchange(line: Line) -> str:
    return f"{line['language']}: {shown(line['prompt'])}\n    {shown(line['text'])}"
