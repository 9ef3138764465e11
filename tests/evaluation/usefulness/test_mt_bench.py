"""Ratings are read as FastChat reads them, and nothing that is no rating counts."""

import dataclasses

import mt_bench_files
import pytest

from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.errors import InputError
from mpo_jax.evaluation.usefulness.mt_bench import Judged, by_temperature, rating_of, read_questions, scores


def files_of(given) -> dict[str, str]:
    return dict(part.split("=") for part in given["--mt-bench-questions"].split(","))


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Good. Rating: [[7]]", 7),
        ("[[8.5]]", 8.5),
        ("Rating: [[3]] and not [[9]]", 3),
        ("[[10]]", 10),
        ("[[11]]", None),
        ("[[0]]", None),
        ("Rating: [7]", None),
        ("Rating: 7", None),
        ("[[rating]]", None),
        ("", None),
    ],
)
def test_a_rating_is_a_number_in_double_brackets(text, rating):
    assert rating_of(text) == rating


def test_categories_have_their_temperatures(tmp_path):
    questions = read_questions(files_of(mt_bench_files.write(tmp_path)), ["en"], None)
    own = dataclasses.replace(questions[0], fields={"category": "gardening"})
    groups = by_temperature([*questions, own])
    named = {temperature: [prompt.fields["category"] for prompt in those] for temperature, those in groups.items()}
    assert named == {0.0: ["math", "coding"], 0.1: ["stem"], 0.7: ["writing", "gardening"]}


def test_questions_of_each_language(tmp_path):
    files = files_of(mt_bench_files.write(tmp_path))
    assert [(p.language, p.id) for p in read_questions(files, ["sw", "en"], 2)] == [
        ("sw", "81"), ("sw", "82"), ("en", "81"), ("en", "82"),
    ]  # fmt: skip
    assert len(read_questions(files, [], None)) == 8
    with pytest.raises(InputError, match="no questions of MT-Bench in 'bn': give --mt-bench-questions with bn=FILE too"):
        read_questions(files, ["bn"], None)
    (tmp_path / "question_sw.jsonl").write_text('{"question_id": 1, "turns": ["a", "b"], "category": 3}\n')
    with pytest.raises(InputError, match="question 1: a question of MT-Bench must have a category"):
        read_questions(files, ["sw"], None)


def judged(number: int, turn: int, rating: float | None, category: str, missing: bool = False) -> Judged:
    return Judged(Prompt(str(number), "sw", (Message("user", "?"),), fields={"category": category}), turn, rating, missing)


def test_the_score_is_the_mean_over_turns_of_what_was_rated():
    said = [judged(1, 0, 4.0, "math"), judged(1, 1, 8.0, "math"), judged(2, 0, None, "stem"), judged(2, 1, None, "stem", True)]
    said += [judged(3, 0, 9.0, "stem"), judged(3, 1, 9.0, "stem")]
    found, items = scores(said)
    whole, math, stem = found
    assert (whole.value, whole.n, whole.unparsed, whole.errors, whole.main) == (7.5, 4, 1, 1, True)
    assert whole.stderr == pytest.approx(((6 - 2 * 7.5 + 6) ** 2 * 2) ** 0.5 * 2**0.5 / 4), "two questions, not four turns"
    assert (math.part, math.value, math.stderr, math.main) == ("math", 6.0, None, False)
    assert (stem.part, stem.value, stem.n, stem.unparsed, stem.errors) == ("stem", 9.0, 2, 1, 1)
    assert items[whole.key] == {("1", "0"): 4.0, ("1", "1"): 8.0, ("3", "0"): 9.0, ("3", "1"): 9.0}
