"""What does a judge say of answers to prompts? Its replies are kept as those of an evaluation are, and none is asked twice."""

from collections.abc import Sequence
from pathlib import Path

from mpo_jax.clients.judges.base import Judge, reads_as_written
from mpo_jax.data.language import UNKNOWN
from mpo_jax.errors import InputError
from mpo_jax.evaluation.safety.exchanges import Exchange, Reading
from mpo_jax.evaluation.safety.verdicts import Verdict, judge_all, verdicts
from mpo_jax.recipes.answers import ALL_THERE
from mpo_jax.recipes.base import Build

GOOD = ("safe", "refusal")  # what judges call an answer that may be chosen


def judge_answers(build: Build, asked: Sequence[Exchange], folder: Path) -> str:
    """Writes what the folder lacks of the replies. Errors: no judge; a language that it does not read."""
    judge = judge_of(build)
    summary = judge_all(asked, [_reading(judge, one) for one in asked], judge, folder) if asked else None
    return ALL_THERE if summary is None else summary.sentence()


def said_of(judge: Judge, asked: Sequence[Exchange], folder: Path) -> list[Verdict]:
    """Of each exchange, "not judged yet" included."""
    read = [_reading(judge, one) for one in asked]
    if not folder.is_dir():
        return [Verdict(one, None, "not judged yet") for one in asked]
    return verdicts(asked, read, judge, folder) if asked else []


def judge_of(build: Build) -> Judge:
    if build.judge is None:
        raise InputError("Who says whether an answer is safe? Give --judge.")
    return build.judge


def _reading(judge: Judge, one: Exchange) -> Reading:
    """As it is written: a judge that would need a translation is refused."""
    assert one.response is not None, "only answers are judged"
    if not reads_as_written(judge.languages, one.language, translated=False):
        raise InputError(
            f"The judge '{judge.name}' does not know '{one.language}' (it reads {', '.join(sorted(judge.languages or ()))}): "
            "give another with --judge."
        )
    return Reading(UNKNOWN if judge.languages is None and one.language != "en" else one.language, one.query, one.response)
