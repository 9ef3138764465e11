"""How good is a model on tasks of lm-evaluation-harness? Loads them, lets the model answer, and reads what came out.

samples/TASK.jsonl    a line for each question: the question, what the model was asked, what it said, how it was judged
"""

import dataclasses
import importlib.util
import json
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpo_jax.devices import processes
from mpo_jax.errors import InputError
from mpo_jax.evaluation.usefulness.benchmarks import Wanted, check_known
from mpo_jax.evaluation.usefulness.harness_model import Asking, harness_model
from mpo_jax.evaluation.usefulness.scores import Item, Score, by_normal, is_mean, mean_of
from mpo_jax.files.json_files import replace_text

SEED = 1234  # of the few-shot examples, as in the harness
RESAMPLES = 1000  # of a figure that is no mean of items, for its standard error


@dataclasses.dataclass(frozen=True)
class Measured:
    """`items`: of each score that is a mean, by its key."""

    scores: list[Score]
    items: dict[tuple[str, ...], dict[Item, float]]


def check_installed() -> None:
    """Errors: lm-evaluation-harness is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError(
            "These tasks need lm-evaluation-harness: run `pip install 'mpo_jax[utility]'`, or in a checkout `pip install -r "
            "requirements-utility.txt`."
        )


def load(tasks: Sequence[Wanted], *, include_path: Path | None, num_fewshot: int | None) -> dict[str, Any]:
    """The tasks as the harness's `TaskManager` loads them, each with `num_fewshot` examples (None = as the task says). Its own
    tasks, which take ten seconds to find, are looked for only if `include_path` does not define all that are wanted.

    Errors: a task that there is not; data that cannot be had; a broken definition."""
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    names = [one.task for one in tasks]
    if include_path is not None and not include_path.is_dir():
        raise InputError(f"--include-path {include_path} is not a folder: give one with the YAML files of tasks.")
    manager = TaskManager(include_path=include_path, include_defaults=False) if include_path else None
    if manager is None or not {*names} <= {*manager.all_tasks}:
        manager = TaskManager(include_path=include_path)
    check_known(tasks, {*manager.all_tasks})
    try:
        loaded: dict[str, Any] = dict(manager.load(names))
    except Exception as error:  # a task's definition is a program, and its data may be anywhere
        raise InputError(
            f"The tasks {', '.join(names)} cannot be loaded ({' '.join(str(error).split())[:300]}): their data comes from the "
            "Hugging Face Hub; where that cannot be reached, define tasks of the same names on local files, in --include-path."
        ) from None
    groups = loaded.get("groups", {})
    for name in names:
        if name not in loaded["tasks"] and not (name in groups and groups[name].has_aggregation):
            parts = ", ".join(groups[name].child_names if name in groups else loaded["tasks"])
            raise InputError(f"The task {name} stands for several and has no figure of its own: name those you want, of {parts}.")
    for name, task in loaded["tasks"].items():
        default = task.get_config("num_fewshot")
        if num_fewshot and default == 0:
            raise InputError(f"The task {name} has no examples to give: leave --num-fewshot out, or the task.")
        task.set_config(key="num_fewshot", value=(default or 0) if num_fewshot is None else num_fewshot)
        task.set_fewshot_seed(seed=SEED)
    return loaded


def measure(asking: Asking, tasks: Sequence[Wanted], loaded: dict[str, Any], *, limit: int | None, chat: bool) -> dict[str, Any]:
    """The harness's results, the same in every process. `limit`: only the first so many questions of each task. `chat`: the
    questions are messages in the chat format, and examples are earlier turns."""
    from lm_eval.evaluator import evaluate  # pyright: ignore[reportMissingImports]

    random.seed(SEED)
    np.random.seed(SEED)
    found = evaluate(
        lm=harness_model(asking),
        task_dict=loaded,  # pyright: ignore[reportArgumentType]
        limit=limit,
        bootstrap_iters=RESAMPLES,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        log_samples=True,
    )
    assert found is not None, "each process is its harness's first"
    return dict(found)


def write_samples(folder: Path, results: Mapping[str, Any]) -> None:
    """A file for each task, in the first process."""
    if processes.first():
        folder.mkdir(parents=True, exist_ok=True)
        for task, samples in results["samples"].items():
            lines = (json.dumps(sample, ensure_ascii=False, default=str) + "\n" for sample in samples)
            replace_text(folder / f"{task}.jsonl", "".join(lines).encode("utf-8", "backslashreplace").decode())


def measured(tasks: Sequence[Wanted], results: Mapping[str, Any]) -> Measured:
    """All figures of these tasks, with the one to look at first: that of the table, or the first of the task, of its flexible
    filter where there is one."""
    scores, items = [], {}
    for one in tasks:
        found = results["results"][one.task]
        names = [name for name in found if "," in name and "_stderr," not in name]
        main = ",".join(one.figure) if one.figure else ""
        if main not in names:
            main = next((name for name in names if name.endswith(",flexible-extract")), names[0])
        leaves = _leaves(one.task, results)
        for name in sorted(names, key=lambda name: name != main):
            metric, of = name.split(",")
            values = _items(leaves, results, metric, of)
            label = metric if of == "none" else f"{metric}, {of}"
            lower = results["higher_is_better"].get(one.task, {}).get(metric) is False
            key = {"task": one.asked, "language": one.language, "metric": label, "main": name == main}
            key["better"] = "lower" if lower else "higher"
            value, n = float(found[name]), int(found["sample_len"])
            if is_mean(value, values.values()):
                scores.append(Score(**key, **mean_of(values)))
                items[scores[-1].key] = values
            else:
                stderr = found.get(f"{metric}_stderr,{of}")
                scores.append(Score(**key, **by_normal(value, stderr if isinstance(stderr, float) else None, n)))
    return Measured(scores, items)


def _leaves(task: str, results: Mapping[str, Any]) -> list[str]:
    """The tasks of a group, or the task itself."""
    parts = results["group_subtasks"].get(task)
    return [leaf for part in parts for leaf in _leaves(part, results)] if parts else [task]


def _items(leaves: Sequence[str], results: Mapping[str, Any], metric: str, of: str) -> dict[Item, float]:
    """What a metric is of each question; nothing where it is no number."""
    found = {}
    for leaf in leaves:
        for sample in results["samples"].get(leaf, ()):
            value = sample.get(metric)
            if sample["filter"] == of and isinstance(value, bool | int | float | np.number):
                found[f"{leaf}/{sample['doc_id']}", ""] = float(value)
    return found
