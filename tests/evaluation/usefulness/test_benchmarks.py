"""The table names tasks that the harness has."""

import re
from pathlib import Path

import pytest

from mpo_jax.errors import InputError
from mpo_jax.evaluation.usefulness.benchmarks import BENCHMARKS, Wanted, check_known, wanted

# The folders of the harness's own tasks in which the table's are.
FOLDERS = {
    "mgsm": "mgsm", "mgsm_en_cot": "mgsm", "mgsm_direct": "mgsm", "global_mmlu": "global_mmlu/default",
    "global_mmlu_full": "global_mmlu/full", "mmmlu": "openai-mmmlu", "belebele": "belebele", "xcopa": "xcopa", "xnli": "xnli",
    "xstorycloze": "xstorycloze",
}  # fmt: skip


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_task_of_the_table_is_one_of_the_harness(name):
    tasks = Path(pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness").__file__).parent / "tasks"
    texts = [path.read_text(encoding="utf-8") for path in (tasks / FOLDERS[name]).rglob("*") if path.suffix == ".yaml"]
    known = {found[2] for text in texts for found in re.finditer(r"^(task|group): *\"?([\w-]+)", text, re.MULTILINE)}
    if name == "mmmlu":
        known.add("mmlu")
        assert (tasks / "mmlu").is_dir()
    of = BENCHMARKS[name]
    assert {of.in_language(language) for language in of.languages} <= known
    pattern = re.compile(re.escape(of.task).replace(r"\{language\}", r"([a-z]{2,3})") + "$")
    there = {found[1] for task in known if (found := pattern.match(task))}
    assert name == "mmmlu" or name == "belebele" or set(of.codes) >= there - {"eu", "ca", "gl", "va"}, "one is not in the table"


def test_names_become_tasks():
    found = wanted(["mgsm", "mmmlu", "own_{language}", "other"], ["sw", "en"])
    assert [(one.asked, one.language, one.task) for one in found] == [
        ("mgsm", "sw", "mgsm_native_cot_sw"),
        ("mgsm", "en", "mgsm_native_cot_en"),
        ("mmmlu", "sw", "mmmlu_sw_ke"),
        ("mmmlu", "en", "mmlu"),
        ("own_{language}", "sw", "own_sw"),
        ("own_{language}", "en", "own_en"),
        ("other", "", "other"),
    ]
    assert found[0].figure == ("exact_match", "flexible-extract") and found[-1].figure is None


@pytest.mark.parametrize(
    ("tasks", "languages", "said"),
    [
        (["mgsm"], [], "The task 'mgsm' is one of each language: give --languages"),
        (["own_{language}"], [], "The task 'own_{language}' is one of each language"),
        (["mgsm"], ["sw", "ko"], "'mgsm' is not there in 'ko': it has bn, de, en, es, fr, ja, ru, sw, te, th, zh"),
        (["mgsm", "mgsm_native_cot_sw"], ["sw"], "mgsm_native_cot_sw is asked for twice"),
    ],
)
def test_what_cannot_be_named_is_a_sentence(tasks, languages, said):
    with pytest.raises(InputError, match=re.escape(said)):
        wanted(tasks, languages)


def test_a_task_that_the_harness_lacks():
    with pytest.raises(
        InputError, match=r"has no task 'mgms': give one of mgsm, .*, mt_bench, x_alpaca_eval, .* in --include-path defines"
    ):
        check_known([Wanted("mgms", "", "mgms", None)], {"mgsm"})
