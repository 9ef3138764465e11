"""MT-Bench in small: questions, prompts of the judge and reference answers in the form of FastChat's files, for tests."""

import json
from pathlib import Path

QUESTIONS = [
    ("writing", ["Write a line about tea.", "Now one about {question_1} and {answer}."]),
    ("math", ["What is 2 + 2?", "And twice that?"]),
    ("stem", ["Why is the sky blue?", "And at night?"]),
    ("coding", ["Print a line.", "Print two."]),
]


def lines(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prompt(name: str, holes: str) -> dict:
    return {
        "name": name,
        "type": "single",
        "system_prompt": f"judge by {name}",
        "prompt_template": holes,
        "output_format": "[[rating]]",
    }


def write(folder: Path) -> dict[str, str]:
    """The options that name them: questions in English and, with the same texts, in Swahili."""
    folder.mkdir(exist_ok=True)
    questions = [{"question_id": 81 + i, "category": category, "turns": turns} for i, (category, turns) in enumerate(QUESTIONS)]
    first, second = "Q {question}\nA {answer}\n{other}", "Q1 {question_1}\nA1 {answer_1}\nQ2 {question_2}\nA2 {answer_2}"
    prompts = [
        prompt("pair-v2", "{question} {answer_a} {answer_b}"),
        prompt("single-v1", first),
        prompt("single-math-v1", f"{first}\nR {{ref_answer_1}}"),
        prompt("single-v1-multi-turn", second),
        prompt("single-math-v1-multi-turn", f"{second}\nR1 {{ref_answer_1}}\nR2 {{ref_answer_2}}"),
    ]
    references = [
        {"question_id": 82, "choices": [{"index": 0, "turns": ["4", "8"]}]},
        {"question_id": 84, "choices": [{"index": 0, "turns": ["print(1)", "print(2)"]}]},
    ]
    en, sw = (lines(folder / f"question_{language}.jsonl", questions) for language in ("en", "sw"))
    return {
        "--mt-bench-questions": f"en={en},sw={sw}",
        "--mt-bench-prompts": lines(folder / "judge_prompts.jsonl", prompts),
        "--mt-bench-references": lines(folder / "gpt-4.jsonl", references),
    }
