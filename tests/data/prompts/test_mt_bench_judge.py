"""FastChat's prompts are filled in as FastChat fills them in, whatever the texts are."""

import json

import mt_bench_files
import pytest

from mpo_jax.data.prompts.mt_bench_judge import JudgePrompts
from mpo_jax.data.prompts.registry import read_prompts
from mpo_jax.errors import InputError
from mpo_jax.files.paths import path_of


@pytest.fixture
def given(tmp_path):
    return mt_bench_files.write(tmp_path / "files")


@pytest.fixture
def prompts(given):
    return JudgePrompts.read(*(path_of(given[f"--mt-bench-{name}"]) for name in ("prompts", "references")))


@pytest.fixture
def questions(given):
    return read_prompts(given["--mt-bench-questions"].split(",")[0].removeprefix("en="))


def test_a_template_for_each_turn_with_and_without_a_reference(prompts, questions):
    writing, math, *_ = questions
    system, user = prompts.messages(writing, ["tea {answer_1}"])
    assert (system.role, system.content, user.role) == ("system", "judge by single-v1", "user")
    assert user.content == "Q Write a line about tea.\nA tea {answer_1}\n{other}", "braces of texts stay, and unknown holes"
    assert prompts.messages(writing, ["a", "b"])[1].content == (
        "Q1 Write a line about tea.\nA1 a\nQ2 Now one about {question_1} and {answer}.\nA2 b"
    )
    assert prompts.messages(math, ["four"])[1].content == "Q What is 2 + 2?\nA four\n{other}\nR 4"
    system, user = prompts.messages(math, ["four", "eight"])
    assert system.content == "judge by single-math-v1-multi-turn" and user.content.endswith("A2 eight\nR1 4\nR2 8")


def test_what_is_missing_is_a_sentence(given, prompts, questions, tmp_path):
    files = [path_of(given[f"--mt-bench-{name}"]) for name in ("prompts", "references")]
    lines = files[0].read_text().splitlines(keepends=True)
    files[0].write_text("".join(line for line in lines if "single-math-v1-multi" not in line))
    with pytest.raises(InputError, match=r"has no prompt 'single-math-v1-multi-turn': give FastChat's judge_prompts.jsonl"):
        JudgePrompts.read(*files)
    files[0].write_text("".join(lines))
    files[1].write_text("".join(files[1].read_text().splitlines(keepends=True)[:1]))
    with pytest.raises(InputError, match="has no answer to turn 1 of question 84, which is judged by one"):
        JudgePrompts.read(*files).messages(questions[3], ["print"])
    files[1].write_text('{"question_id": 82}\n')
    with pytest.raises(InputError, match=r"gpt-4.jsonl, line 1: a reference answer must have question_id and choices"):
        JudgePrompts.read(*files)
    with pytest.raises(InputError, match="does not exist"):
        JudgePrompts.read(files[0], tmp_path / "none.jsonl")


def test_the_published_files(shared):
    """Every question has its prompts; they say what FastChat's own formatting says."""
    folder = shared / "data" / "mt_bench"
    prompts = JudgePrompts.read(folder / "judge_prompts.jsonl", folder / "reference_answer_gpt-4.jsonl")
    templates = {t["name"]: t for t in map(json.loads, (folder / "judge_prompts.jsonl").read_text().splitlines())}
    questions = read_prompts(folder / "question.jsonl")
    assert len(questions) == 80
    for question in questions:
        turns = {"question_1": question.messages[0].content, "question_2": question.follow_ups[0]}
        refs = {f"ref_answer_{i}": text for i, text in enumerate(prompts.references.get(question.id, ()), start=1)}
        math = "math-" if question.fields["category"] in ("math", "reasoning", "coding") else ""
        one, two = (templates[f"single-{math}v1{rest}"]["prompt_template"] for rest in ("", "-multi-turn"))
        first, second = "an answer {x}", "another {answer_1}"
        assert prompts.messages(question, [first])[1].content == one.format(question=turns["question_1"], answer=first, **refs)
        expected = two.format(answer_1=first, answer_2=second, **turns, **refs)
        assert prompts.messages(question, [first, second])[1].content == expected
