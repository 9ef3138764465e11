"""What is the judge of MT-Bench asked about an answer? FastChat's prompts for single-answer grading, filled in.

L. Zheng et al., arXiv:2306.05685; lm-sys/FastChat, fastchat/llm_judge: judge_prompts.jsonl has the prompts, and
reference_answer/gpt-4.jsonl the answers that the judge compares with in the categories that have one right answer.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mpo_jax.data.json_objects import Place, kind, read_values, string
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.errors import InputError

REFERENCED = ("math", "reasoning", "coding")  # the categories that are judged by a reference
# (whether there is a reference, how many turns were answered) -> the name of the prompt
NAMES = {
    (False, 1): "single-v1",
    (True, 1): "single-math-v1",
    (False, 2): "single-v1-multi-turn",
    (True, 2): "single-math-v1-multi-turn",
}
_HOLE = re.compile(r"\{(question(?:_\d)?|answer(?:_\d)?|ref_answer_\d)\}")


@dataclasses.dataclass(frozen=True)
class JudgePrompts:
    """`templates`: name -> (system message, user's message with holes). `references`: id of a question -> one answer a turn.
    `path`: of the references, for error messages."""

    templates: dict[str, tuple[str, str]]
    references: dict[str, tuple[str, ...]]
    path: Path

    @classmethod
    def read(cls, prompts: Path, references: Path) -> "JudgePrompts":
        """Errors: files that are not of FastChat's form; a prompt that is not there."""
        templates = {
            string(value.get("name"), "name", place): (
                string(value.get("system_prompt"), "system_prompt", place),
                string(value.get("prompt_template"), "prompt_template", place),
            )
            for place, value in _objects(prompts)
        }
        if lacking := [name for name in NAMES.values() if name not in templates]:
            raise InputError(f"{prompts} has no prompt '{lacking[0]}': give FastChat's judge_prompts.jsonl.")
        return cls(templates, dict(_reference(place, value) for place, value in _objects(references)), references)

    def messages(self, question: Prompt, answers: Sequence[str]) -> tuple[Message, ...]:
        """What is asked of the last of these answers, which are to the first turns of the question. Errors: a question that is
        judged by a reference, and has none."""
        turns = (question.messages[-1].content, *question.follow_ups)[: len(answers)]
        referenced = question.fields["category"] in REFERENCED
        texts = {"question": turns[0], "answer": answers[0]}
        for turn, (asked, answer) in enumerate(zip(turns, answers, strict=True), start=1):
            texts |= {f"question_{turn}": asked, f"answer_{turn}": answer}
        if referenced:
            known = self.references.get(question.id, ())
            if len(known) < len(answers):
                raise InputError(
                    f"{self.path} has no answer to turn {len(answers)} of question {question.id}, which is judged by one: give "
                    "FastChat's reference_answer/gpt-4.jsonl, or one with answers to your own questions of the categories "
                    f"{', '.join(REFERENCED)}."
                )
            texts |= {f"ref_answer_{turn}": text for turn, text in enumerate(known, start=1)}
        system, template = self.templates[NAMES[referenced, len(answers)]]
        # All holes at once: a text that is put in may have braces of its own.
        return Message("system", system), Message("user", _HOLE.sub(lambda hole: texts.get(hole[1], hole[0]), template))


def _objects(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a file of FastChat's llm_judge.")
    for where, value in read_values(path):
        if not isinstance(value, dict):
            raise Place(where).error(f"there must be an object, not {kind(value)}")
        yield Place(where), value


def _reference(place: Place, value: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    try:
        turns = value["choices"][0]["turns"]
        return str(value["question_id"]), tuple(string(turn, f"turns[{i}]", place) for i, turn in enumerate(turns))
    except (LookupError, TypeError):
        raise place.error("a reference answer must have question_id and choices, a list whose first object has turns") from None
