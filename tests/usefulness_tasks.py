"""Tasks of lm-evaluation-harness on local files, for tests: what the Hub has is written as JSON lines, and a YAML beside it."""

import json
from pathlib import Path

import yaml

CHOICES = [
    ("The sky is", ["blue", "green stone", "a"]),
    ("Bahari ni", ["kubwa", "ndogo sana", "mti"]),
    ("Two and two make", [" four", "five, or so", "4"]),
    ("", ["nothing at all", "something"]),
    ("A cat says", ["miaow", "miaow miaow", "woof", "moo"]),
    ("One token each:", ["a", "b", "c", "d"]),
]
SUMS = [("Juma ana ndizi 3, anapata 4. Ana ngapi?", 7), ("Asha has 10 pens and gives 2. How many?", 8), ("1 + 1?", 2)]


def write_task(folder: Path, name: str, rows: list[dict], config: dict) -> None:
    """A YAML file of the task and its data; the first rows are the examples of a few-shot prompt."""
    folder.mkdir(exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "fewshot_split": "test",
        "fewshot_config": {"sampler": "first_n"},
        "metadata": {"version": 0},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(common | config))


def write_choices(folder: Path, name: str = "toy_choice") -> None:
    rows = [{"question": question, "choices": choices, "answer": i % 2} for i, (question, choices) in enumerate(CHOICES)]
    config = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    write_task(folder, name, rows, config)


def write_sums(folder: Path, name: str, rows: list[tuple[str, int]] = SUMS, **options) -> None:
    """MGSM's tasks in short: the last number of an answer is what counts."""
    last = {"function": "regex", "group_select": -1, "regex_pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)"}
    config = {
        "output_type": "generate_until",
        "doc_to_text": "Swali: {{question}}\nJibu:",
        "doc_to_target": "{{answer|string}}",
        "generation_kwargs": {"until": ["Swali:", "\n\n"], "do_sample": False, "max_gen_toks": 12} | options,
        "filter_list": [{"name": "flexible-extract", "filter": [last, {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    write_task(folder, name, [{"question": question, "answer": answer} for question, answer in rows], config)


def write_texts(folder: Path, name: str, texts: list[str], **more) -> None:
    config = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    }
    write_task(folder, name, [{"text": text} for text in texts], config | more)
