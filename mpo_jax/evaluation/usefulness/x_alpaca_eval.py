"""How often does a judge prefer a model's answers to those of a reference? X-AlpacaEval, in each language.

W. Yang et al., arXiv:2410.08964 (LIDR) and arXiv:2503.04647 (ICR), after AlpacaEval 2 (arXiv:2404.04475): the judge writes one
token, the name of the better output, and p(candidate) = p(its name) / (p(m) + p(M)) comes from the log-probabilities of the most
probable ones. The win rate is 100 times the mean of p(candidate).

    answers/       the model's answers
    judgements/    the judge's replies, with the log-probabilities
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mpo_jax.data.prompts.alpaca_eval_judge import FIRST, SECOND, candidates_name, messages
from mpo_jax.data.prompts.base import Prompt
from mpo_jax.data.prompts.registry import first_of_each_language
from mpo_jax.data.prompts.x_alpaca_eval import read_instructions
from mpo_jax.errors import InputError
from mpo_jax.evaluation.usefulness.scores import Item, Score, bootstrapped
from mpo_jax.files.paths import path_of
from mpo_jax.generation.base import Decoding, Responder
from mpo_jax.generation.engine import Engine
from mpo_jax.generation.records import Record
from mpo_jax.generation.run import answered, complete, generate
from mpo_jax.generation.server import ServedModel

NAME, METRIC = "x_alpaca_eval", "win rate"
ANSWERS = Decoding(temperature=0.6, top_p=0.9, max_new_tokens=2048)
# The temperature is AlpacaEval's: some servers tell the log-probabilities after it, which leaves nothing to read at 0.
JUDGEMENT, TOP = Decoding(temperature=1.0, max_new_tokens=1), 5
EVEN = 0.5  # of equal outputs, about which nobody is asked

Judged = tuple[Prompt, float | None, bool]  # p(candidate), None where there is none; whether that is since no reply came


@dataclasses.dataclass(frozen=True)
class XAlpacaEval:
    """The benchmark of these prompts. Those without an output are judged against the answers of the first model."""

    prompts: list[Prompt]
    name = NAME

    @property
    def needs_two(self) -> bool:
        """Whether answers are compared with those of another model of the same run."""
        return any("output" not in prompt.fields for prompt in self.prompts)

    def write_answers(self, engine: Engine, folder: Path, max_new_tokens: int | None) -> None:
        """Those that `folder` lacks. Errors: those of `generate`."""
        decoding = ANSWERS if max_new_tokens is None else dataclasses.replace(ANSWERS, max_new_tokens=max_new_tokens)
        generate(self.prompts, engine.otherwise(decoding), folder / "answers")

    def judged(
        self, judge: ServedModel, folder: Path, first: Path
    ) -> tuple[list[Score], dict[tuple[str, ...], dict[Item, float]]]:
        """The scores of the answers in `folder`, and their items. `first`: the folder of the first model. Errors: those of
        `preferences`."""
        responder = dataclasses.replace(judge, decoding=JUDGEMENT, top_logprobs=TOP)
        return scores(preferences(responder, self.prompts, folder, first))


def read(files: Mapping[str, str], languages: Sequence[str], limit: int | None) -> XAlpacaEval:
    """Of these languages, from language -> file. Errors: those of `read_instructions`; a language without a file."""
    found = []
    for language in languages or files:
        if language not in files:
            raise InputError(
                f"There are no instructions of X-AlpacaEval in '{language}': give --x-alpaca-eval with {language}=FILE too, or "
                "leave the language out."
            )
        found += read_instructions(path_of(files[language]), language)
    return XAlpacaEval(first_of_each_language(limit, found))


def preferences(responder: Responder, prompts: Sequence[Prompt], folder: Path, first: Path) -> list[Judged]:
    """What the judge says of the answers in `folder`; only those that were not judged before are sent. Errors: an answer that is
    not there; a judge that answers nothing."""
    candidates, others = _texts(prompts, folder), _texts(prompts, first)
    asked = []
    for prompt, candidate, other in zip(prompts, candidates, others, strict=True):
        reference = prompt.fields.get("output", other)
        if candidate != reference:
            sent = messages(prompt.messages[-1].content, reference, candidate)
            asked.append(Prompt(prompt.id, prompt.language, sent))
    where = folder / "judgements"
    generate(asked, responder, where)
    said = {(question.language, question.id): record for question, record in _records(asked, where)}
    if said and all(record is None or record.stopped == "error" for record in said.values()):
        reason = next((record.error for record in said.values() if record is not None), None) or "no reply"
        raise InputError(
            f"The judge answered none of {len(said)} questions ({reason}): give a server that tells log-probabilities."
        )
    return [
        _judged(prompt, said[prompt.language, prompt.id]) if (prompt.language, prompt.id) in said else (prompt, EVEN, False)
        for prompt in prompts
    ]


def preference(top_logprobs: Mapping[str, float], name: str) -> float | None:
    """p(`name`) / (p(m) + p(M)), where one that is not among the most probable tokens has none. None: neither is."""
    of = {one: math.exp(top_logprobs[one]) for one in (FIRST, SECOND) if one in top_logprobs}
    total = sum(of.values())
    return of.get(name, 0.0) / total if total else None


def scores(judged: Sequence[Judged]) -> tuple[list[Score], dict[tuple[str, ...], dict[Item, float]]]:
    """The win rate of each language, from 0 to 100; with those of the prompts, by the key of the score."""
    found, items = [], {}
    for language in dict.fromkeys(prompt.language for prompt, _, _ in judged):
        own = [one for one in judged if one[0].language == language]
        wins = {(prompt.id, ""): 100 * p for prompt, p, _ in own if p is not None}
        errors = sum(missing for _, _, missing in own)
        unparsed = len(own) - len(wins) - errors
        found.append(Score(NAME, language, METRIC, **bootstrapped(wins), unparsed=unparsed, errors=errors))
        items[found[-1].key] = wins
    return found, items


def _texts(prompts: Sequence[Prompt], folder: Path) -> list[str]:
    where = folder / "answers"
    if not complete(prompts, where):
        raise InputError(
            f"{where} does not have an answer to each of these instructions: run the command without --judge-only first, with "
            "the same files."
        )
    return [record.text for _, record in _records(prompts, where) if record is not None]


def _records(prompts: Sequence[Prompt], folder: Path) -> list[tuple[Prompt, Record | None]]:
    return [(request.prompt, record) for request, record in answered(prompts, folder)]


def _judged(prompt: Prompt, record: Record | None) -> Judged:
    if record is None or record.stopped == "error":
        return prompt, None, True
    return prompt, preference(record.top_logprobs or {}, candidates_name(prompt.messages[-1].content)), False
