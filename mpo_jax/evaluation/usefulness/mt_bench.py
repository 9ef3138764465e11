"""How good are a model's answers to MT-Bench? It answers two turns of each question, and a judge rates each answer from 1 to 10.

L. Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv:2306.05685, as its code FastChat does it
(lm-sys/FastChat, fastchat/llm_judge): temperatures by category, single-answer grading, the score is the mean over all turns.

    answers-T/     the answers that were drawn at temperature T
    judgements/    the judge's replies
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mpo_jax.data.prompts.base import Prompt
from mpo_jax.data.prompts.mt_bench_judge import JudgePrompts
from mpo_jax.data.prompts.registry import first_of_each_language, read_prompts
from mpo_jax.errors import InputError
from mpo_jax.evaluation.usefulness.scores import Item, Score, mean_of
from mpo_jax.generation.base import Decoding, Responder
from mpo_jax.generation.engine import Engine
from mpo_jax.generation.records import Record
from mpo_jax.generation.run import answered, complete, generate
from mpo_jax.generation.server import ServedModel

NAME, METRIC = "mt_bench", "rating"
TEMPERATURES = {
    **dict.fromkeys(("writing", "roleplay"), 0.7),
    **dict.fromkeys(("stem", "humanities"), 0.1),
    **dict.fromkeys(("extraction", "math", "coding", "reasoning"), 0.0),
}
OTHERWISE = 0.7  # of a category of one's own
ANSWER = 1024  # most tokens of an answer
JUDGEMENT = Decoding(max_new_tokens=2048)
TURNS = 2

_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")


@dataclasses.dataclass(frozen=True)
class Judged:
    """An answer and what the judge said of it. `rating` is None where it said none, and where there is no judgement: then
    `missing` says why."""

    prompt: Prompt
    turn: int
    rating: float | None
    missing: bool

    @property
    def category(self) -> str:
        return self.prompt.fields["category"]


@dataclasses.dataclass(frozen=True)
class MTBench:
    """The benchmark of these questions. `judge_prompts`: None where nothing is judged."""

    questions: list[Prompt]
    judge_prompts: JudgePrompts | None
    name = NAME
    needs_two = False

    def write_answers(self, engine: Engine, folder: Path, max_new_tokens: int | None) -> None:
        """Those that `folder` lacks. Errors: those of `generate`."""
        for temperature, prompts in by_temperature(self.questions).items():
            decoding = Decoding(temperature=temperature, max_new_tokens=ANSWER if max_new_tokens is None else max_new_tokens)
            generate(prompts, engine.otherwise(decoding), answers_at(folder, temperature))

    def judged(
        self, judge: ServedModel, folder: Path, first: Path
    ) -> tuple[list[Score], dict[tuple[str, ...], dict[Item, float]]]:
        """The scores of the answers in `folder`, and their items; `first` is not read, since a rating is of one answer. Errors:
        those of `rated`."""
        assert self.judge_prompts is not None
        responder = dataclasses.replace(judge, decoding=JUDGEMENT)
        return scores(rated(responder, self.questions, self.judge_prompts, folder))


def read_questions(files: Mapping[str, str], languages: Sequence[str], limit: int | None) -> list[Prompt]:
    """Of these languages, from language -> file of FastChat's form. Errors: those of `read_prompts`; a language without a file;
    a question without a category, or of more than two turns."""
    found = []
    for language in languages or files:
        if language not in files:
            raise InputError(
                f"There are no questions of MT-Bench in '{language}': give --mt-bench-questions with {language}=FILE too, or "
                "leave the language out."
            )
        for prompt in read_prompts(files[language]):
            if not isinstance(prompt.fields.get("category"), str) or len(prompt.follow_ups) >= TURNS:
                raise InputError(
                    f"{files[language]}, question {prompt.id}: a question of MT-Bench must have a category, a string, and one or "
                    "two turns."
                )
            found.append(dataclasses.replace(prompt, language=language))
    return first_of_each_language(limit, found)


def by_temperature(questions: Iterable[Prompt]) -> dict[float, list[Prompt]]:
    groups: dict[float, list[Prompt]] = {}
    for prompt in questions:
        groups.setdefault(TEMPERATURES.get(prompt.fields["category"], OTHERWISE), []).append(prompt)
    return dict(sorted(groups.items()))


def answers_at(folder: Path, temperature: float) -> Path:
    return folder / f"answers-{temperature:g}"


def rated(responder: Responder, questions: Sequence[Prompt], prompts: JudgePrompts, folder: Path) -> list[Judged]:
    """What the judge says of the answers in `folder`; only those that were not judged before are sent. Errors: an answer that is
    not there; those of `JudgePrompts.messages` and `generate`."""
    texts, asked = _answers(questions, folder), []
    for prompt in questions:
        for turn in range(1 + len(prompt.follow_ups)):
            messages = prompts.messages(prompt, texts[prompt.language, prompt.id][: turn + 1])
            asked.append((prompt, turn, Prompt(f"{prompt.id}/{turn}", prompt.language, messages)))
    where, sent = folder / "judgements", [question for _, _, question in asked]
    generate(sent, responder, where)
    said = [record for _, record in answered(sent, where)]
    return [_judged(prompt, turn, record) for (prompt, turn, _), record in zip(asked, said, strict=True)]


def rating_of(text: str) -> float | None:
    """The first number in double brackets, if it is from 1 to 10; None is unparsed, and never counts."""
    found = _RATING.search(text)
    return float(found[1]) if found and 1 <= float(found[1]) <= 10 else None


def scores(judged: Sequence[Judged]) -> tuple[list[Score], dict[tuple[str, ...], dict[Item, float]]]:
    """Of each language, of all questions and of each category; with the ratings, by the key of the score."""
    found, items = [], {}
    for language in dict.fromkeys(one.prompt.language for one in judged):
        own = [one for one in judged if one.prompt.language == language]
        for part in ("", *dict.fromkeys(one.category for one in own)):
            those = [one for one in own if part in ("", one.category)]
            rated = {(one.prompt.id, str(one.turn)): one.rating for one in those if one.rating is not None}
            errors = sum(one.missing for one in those)
            unparsed = len(those) - len(rated) - errors
            kind = {"task": NAME, "language": language, "metric": METRIC, "part": part, "main": not part}
            found.append(Score(**kind, **mean_of(rated), unparsed=unparsed, errors=errors))
            items[found[-1].key] = rated
    return found, items


def _answers(questions: Sequence[Prompt], folder: Path) -> dict[tuple[str, str], list[str]]:
    """By language and id of the question, one a turn."""
    texts: dict[tuple[str, str], list[str]] = {}
    for temperature, prompts in by_temperature(questions).items():
        where = answers_at(folder, temperature)
        if not complete(prompts, where):
            raise InputError(
                f"{where} does not have an answer to each of these questions: run the command without --judge-only first, with "
                "the same questions."
            )
        for request, record in answered(prompts, where):
            assert record is not None, "it is complete"
            texts.setdefault((request.prompt.language, request.prompt.id), []).append(record.text)
    return texts


def _judged(prompt: Prompt, turn: int, record: Record | None) -> Judged:
    missing = record is None or record.stopped == "error"
    return Judged(prompt, turn, None if record is None or missing else rating_of(record.text), missing)
