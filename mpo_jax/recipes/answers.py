"""How does a stage have a model answer, and how is what it said read back? Each stage has a folder of its own.

Records are those of `generation.run`: nothing is asked twice, and errors are asked again by the next run.
"""

from collections.abc import Mapping, Sequence

from mpo_jax.data.prompts.base import Prompt
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.records import SETTINGS, Record
from mpo_jax.generation.run import answered, complete, generate
from mpo_jax.recipes.base import Build, not_run

ALL_THERE = "all there"


def write_answers(
    build: Build, stage: str, prompts: Sequence[Prompt], decoding: Decoding, *, samples: int = 1, opening: str = ""
) -> str:
    """Writes what the stage's folder lacks, and says what. `opening`: see `OwnModel.responder`. Errors: those of `generate` and
    of the model."""
    folder = build.folder / stage
    if complete(prompts, folder, samples=samples):
        return ALL_THERE
    return generate(prompts, build.own.responder(decoding, opening), folder, samples=samples).sentence()


def read_answers(
    build: Build, stage: str, prompts: Sequence[Prompt], *, samples: int = 1
) -> Mapping[tuple[str, str, int], Record]:
    """(language, id, sample) -> what was said, an error perhaps. Errors: an answer that has not been asked for."""
    if not prompts:
        return {}
    if not (build.folder / stage / SETTINGS).is_file():
        raise not_run(stage, f"{build.folder} has no answers of the stage '{stage}'")
    found = {}
    for request, record in answered(prompts, build.folder / stage, samples=samples):
        prompt = request.prompt
        if record is None:
            raise not_run(stage, f"{build.folder / stage} has no answer to '{prompt.id}' in '{prompt.language}'")
        found[prompt.language, prompt.id, request.sample] = record
    return found


def answers_so_far(build: Build, stage: str, prompts: Sequence[Prompt], most: int) -> dict[str, list[Record]]:
    """id -> its samples in their order, up to the first one of `most` that is not there or is an error."""
    found: dict[str, list[Record]] = {prompt.id: [] for prompt in prompts}
    if (build.folder / stage / SETTINGS).is_file():
        for request, record in answered(prompts, build.folder / stage, samples=most):
            if record is not None and record.stopped != "error" and len(found[request.prompt.id]) == request.sample:
                found[request.prompt.id].append(record)
    return found


def failure(record: Record) -> str | None:
    """Why an answer is none, in words; None where it is one."""
    if record.stopped == "error":
        return f"no answer: {record.error}"
    return None if record.text.strip() else "an empty answer"
