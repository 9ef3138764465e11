"""How useful is a model? Benchmarks of lm-evaluation-harness, MT-Bench and X-AlpacaEval, in each language, before and after.

    python -m mpo_jax.utility --model DIR --tasks mgsm,global_mmlu --languages en,zh,sw,bn --output OUT [--compare DIR2]
    python -m mpo_jax.utility --model DIR --tasks mt_bench --output OUT --mt-bench-questions en=question.jsonl,sw=sw.jsonl \\
        --mt-bench-prompts judge_prompts.jsonl --mt-bench-references gpt-4.jsonl --judge-server URL --judge-model NAME
    python -m mpo_jax.utility --model DIR --tasks x_alpaca_eval --languages en,es,ru --output OUT \\
        --x-alpaca-eval en=en.json,es=es.json,ru=ru.json --judge-server URL --judge-model NAME

Writes OUT/utility.json (each figure with its interval) and OUT/utility.png, and for each model, in OUT/model, or OUT/before and
OUT/after with `--compare`: samples, a line for each question, and the answers, so that the same command goes on where it was cut
short. On a cluster every process runs the command; elsewhere `--hosts.coordinator`, `--hosts.count` and `--hosts.index` join
several processes.
"""

import argparse
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from mpo_jax.data.chat_format import TEMPLATES
from mpo_jax.data.conversation import Conversation
from mpo_jax.data.prompts.mt_bench_judge import JudgePrompts
from mpo_jax.devices import processes
from mpo_jax.errors import InputError, one_sentence
from mpo_jax.evaluation.usefulness import harness, mt_bench, x_alpaca_eval
from mpo_jax.evaluation.usefulness.benchmarks import JUDGED, Wanted, wanted
from mpo_jax.evaluation.usefulness.harness_model import MAX_NEW_TOKENS, POSITIONS, Asking
from mpo_jax.evaluation.usefulness.report import Report
from mpo_jax.files import hub
from mpo_jax.files.paths import path_of
from mpo_jax.generate import BATCH_SIZE, KEY, add_mesh, key_of
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.engine import Engine, load_engine
from mpo_jax.generation.server import ServedModel

LABELS = ("model", "before", "after")  # of the models, and the names of their folders


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mpo_jax.utility", description="Measures how useful a model is.")
    parser.add_argument("--model", help="a folder, or a Hugging Face hub name as user/name[@revision]")
    parser.add_argument("--compare", help="a second model, measured on the same questions")
    parser.add_argument("--tasks", required=True, help="names with commas between them, such as mgsm,global_mmlu,mt_bench")
    parser.add_argument("--languages", help="such as en,zh,sw,bn")
    parser.add_argument("--output", required=True, help="a folder for utility.json, utility.png, samples and answers")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N questions of each task and language")
    parser.add_argument(
        "--template",
        choices=TEMPLATES,
        default="authors",
        help="authors: the chat format of MPO's authors for this family; hf: the tokenizer's own (default: %(default)s)",
    )
    add_harness(parser)
    add_judged(parser)
    add_mesh(parser)
    processes.add_options(parser)
    args = parser.parse_args(argv)
    with one_sentence(), processes.joined(processes.hosts_of(args)), one_sentence():
        run(args)


def add_harness(parser: argparse.ArgumentParser) -> None:
    options = parser.add_argument_group("tasks of lm-evaluation-harness", "needs the package lm_eval")
    options.add_argument("--num-fewshot", metavar="N", type=int, help="examples before each question (default: as the task says)")
    options.add_argument("--include-path", metavar="DIR", help="a folder with YAML files of tasks of one's own")
    options.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="questions are messages in the chat format (default), or with --no-chat plain texts, as for a base model",
    )
    options.add_argument(
        "--max-new-tokens",
        metavar="N",
        type=int,
        help=f"most tokens of an answer where a task does not say (default: {MAX_NEW_TOKENS}; {mt_bench.ANSWER} in mt_bench, "
        f"{x_alpaca_eval.ANSWERS.max_new_tokens} in x_alpaca_eval)",
    )
    options.add_argument("--max-length", metavar="N", type=int, help="tokens read at once (default: as many as the model can)")


def add_judged(parser: argparse.ArgumentParser) -> None:
    options = parser.add_argument_group("mt_bench", "files of FastChat's llm_judge")
    options.add_argument("--mt-bench-questions", metavar="LANGUAGE=FILE,...", help="question.jsonl, of each language")
    options.add_argument("--mt-bench-prompts", metavar="FILE", help="judge_prompts.jsonl")
    options.add_argument("--mt-bench-references", metavar="FILE", help="the reference answers")
    options = parser.add_argument_group("x_alpaca_eval", "files of X-AlpacaEval")
    options.add_argument(
        "--x-alpaca-eval", metavar="LANGUAGE=FILE,...", help="instructions with a reference's outputs (model_outputs.json)"
    )
    options = parser.add_argument_group(f"the judge of {' and '.join(JUDGED)}", "needs the package openai")
    options.add_argument(
        "--judge-server", metavar="URL", help="a server with OpenAI's interface; without one answers are written"
    )
    options.add_argument("--judge-model", metavar="NAME", help="the judge's name on the server")
    options.add_argument("--judge-concurrency", type=int, help=f"most requests at once (default: {ServedModel.concurrency})")
    options.add_argument("--judge-api-key-env", metavar="NAME", help=f"environment variable that holds the key (default: {KEY})")
    options.add_argument("--judge-only", action="store_true", help="judge what OUTPUT has, without a model")


class Judged(Protocol):
    """A benchmark whose answers a judge reads. `needs_two`: whether it compares the answers of two models."""

    name: str

    @property
    def needs_two(self) -> bool: ...

    def write_answers(self, engine: Engine, folder: Path, max_new_tokens: int | None) -> None: ...

    def judged(self, judge: ServedModel, folder: Path, first: Path) -> tuple[list[Any], dict[Any, Any]]: ...


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be measured, read and checked before a model is loaded. `judge`: None where answers are only written."""

    tasks: list[Wanted]
    loaded: dict[str, Any]
    judged: list[Judged]
    judge: ServedModel | None


def run(args: argparse.Namespace) -> None:
    """What the command does, in each of its processes. Errors: those of the options, tasks, models and the judge."""
    output, plan = path_of(args.output), planned(args)
    if args.judge_only:
        names = {label: "" for label in LABELS if (output / label / args.tasks).is_dir()} or {LABELS[0]: ""}
    else:
        names = {"before": args.model, "after": args.compare} if args.compare else {"model": args.model}
    if plan.judge is not None and len(names) < 2 and any(one.needs_two for one in plan.judged):
        raise InputError(
            "A file of --x-alpaca-eval has no outputs to compare the answers with: give one with a reference's outputs, such as "
            "model_outputs.json, or compare two models with --model and --compare."
        )
    report = Report(settings_of(args), {}, {})
    adapters = dict.fromkeys(names) | {list(names)[-1]: args.adapter}  # a model is compared with itself and an adapter
    for label, name in names.items():
        with loaded(args, name, adapters[label]) as engine:
            scores, items = measured(args, plan, engine, output / label, output / next(iter(names)))
        report.scores[label], report.items[label] = scores, items
    if not any(report.scores.values()):
        processes.say(f"{output} has the answers: give --judge-server and --judge-model, and they are judged.")
    elif processes.first():
        name = args.tasks if args.judge_only else "utility"
        report.write(output, name)
        print(f"{report.table()}\n{output / name}.json has all figures. [95 % intervals]")


def planned(args: argparse.Namespace) -> Plan:
    """Errors: options that contradict each other or lack something; tasks, questions and prompts that are not there."""
    asked, languages = _parts(args.tasks), _parts(args.languages or "")
    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit {args.limit} must be at least 1: the number of questions of each task.")
    if len({*languages}) < len(languages):
        raise InputError(f"--languages {args.languages} names a language twice: name each once.")
    if args.judge_only and (args.tasks not in JUDGED or args.judge_server is None):
        raise InputError(
            f"--judge-only is for --tasks {' or '.join(JUDGED)} and needs --judge-server: leave it out, or give these."
        )
    if args.judge_only and (args.model or args.compare or args.adapter):
        raise InputError("--judge-only judges the answers in --output: leave --model, --compare and --adapter out.")
    if not args.judge_only and args.model is None:
        raise InputError("No model is given: write --model, a folder or a name on the Hugging Face Hub.")
    tasks = wanted([name for name in asked if name not in JUDGED], languages)
    found: dict[str, Any] = {}
    if tasks:
        harness.check_installed()
        include = path_of(args.include_path) if args.include_path else None
        found = harness.load(tasks, include_path=include, num_fewshot=args.num_fewshot)
    judged: list[Judged] = [READ[name](args, languages) for name in JUDGED if name in asked]
    return Plan(tasks, found, judged, judge_of(args) if judged and args.judge_server is not None else None)


def _mt_bench(args: argparse.Namespace, languages: Sequence[str]) -> mt_bench.MTBench:
    if args.mt_bench_questions is None:
        raise InputError("mt_bench needs --mt-bench-questions: en=FILE, FastChat's question.jsonl, and those of other languages.")
    questions = mt_bench.read_questions(_files("--mt-bench-questions", args.mt_bench_questions), languages, args.limit)
    if args.judge_server is None:
        return mt_bench.MTBench(questions, None)
    for option in ("mt_bench_prompts", "mt_bench_references"):
        if getattr(args, option) is None:
            raise InputError(f"A judge of mt_bench needs --{option.replace('_', '-')}: give it, or leave --judge-server out.")
    prompts = JudgePrompts.read(path_of(args.mt_bench_prompts), path_of(args.mt_bench_references))
    return mt_bench.MTBench(questions, prompts)


def _x_alpaca_eval(args: argparse.Namespace, languages: Sequence[str]) -> x_alpaca_eval.XAlpacaEval:
    if args.x_alpaca_eval is None:
        raise InputError(
            "x_alpaca_eval needs --x-alpaca-eval: en=FILE,es=FILE, the model_outputs.json of a reference in each language."
        )
    return x_alpaca_eval.read(_files("--x-alpaca-eval", args.x_alpaca_eval), languages, args.limit)


READ: dict[str, Callable[[argparse.Namespace, Sequence[str]], Judged]] = {
    mt_bench.NAME: _mt_bench,
    x_alpaca_eval.NAME: _x_alpaca_eval,
}


def judge_of(args: argparse.Namespace) -> ServedModel:
    """A server that has answered once. Errors: no name of a model; those of `ServedModel`."""
    if args.judge_model is None:
        raise InputError("A judge needs --judge-model, its name on the server: give it, or leave --judge-server out.")
    concurrency = ServedModel.concurrency if args.judge_concurrency is None else args.judge_concurrency
    key = key_of("--judge-api-key-env", args.judge_api_key_env)
    judge = ServedModel(args.judge_server, args.judge_model, Decoding(), None, concurrency, key)
    judge.check()
    return judge


@contextlib.contextmanager
def loaded(args: argparse.Namespace, name: str, adapter: str | None) -> Iterator[Engine | None]:
    """The model on this run's own devices, which have room for the next one afterwards. None with --judge-only."""
    if args.judge_only:
        yield None
        return
    engine = load_engine(
        hub.resolve(name),
        Decoding(),
        template=args.template,
        dtype=jnp.dtype(args.dtype or "bfloat16"),
        batch_size=BATCH_SIZE if args.batch_size is None else args.batch_size,
        tensor=args.tensor,
        width=args.width,
        adapter=adapter,
    )
    try:
        yield engine
    finally:
        for weights in jax.tree.leaves(engine.params):
            weights.delete()


def measured(
    args: argparse.Namespace, plan: Plan, engine: Engine | None, folder: Path, first: Path
) -> tuple[list[Any], dict[Any, Any]]:
    """The scores of one model, whose answers are in `folder`, and their items. `first`: the folder of the first model."""
    scores, items = [], {}
    if plan.tasks:
        assert engine is not None
        results = _harness(args, plan, engine, folder)
        found = harness.measured(plan.tasks, results)
        scores, items = found.scores, dict(found.items)
    for one in plan.judged:
        if engine is not None:
            one.write_answers(engine, folder / one.name, args.max_new_tokens)
        if plan.judge is not None:
            more, found = one.judged(plan.judge, folder / one.name, first / one.name)
            scores, items = [*scores, *more], items | found
    return scores, items


def _harness(args: argparse.Namespace, plan: Plan, engine: Engine, folder: Path) -> dict[str, Any]:
    conversation = engine.conversation
    assert isinstance(conversation, Conversation), "load_engine was given no other"
    most = engine.positions or POSITIONS
    if args.max_length is not None and not 1 < args.max_length <= most:
        raise InputError(f"--max-length {args.max_length} must be from 2 to {most}, which is what the model can read.")
    limit = MAX_NEW_TOKENS if args.max_new_tokens is None else args.max_new_tokens
    asking = Asking(engine, conversation, folder / "answers", args.max_length or most, limit)
    results = harness.measure(asking, plan.tasks, plan.loaded, limit=args.limit, chat=args.chat)
    harness.write_samples(folder / "samples", results)
    if asking.cut.contexts:
        processes.say(f"{folder.name}: {asking.cut.contexts} questions were too long and lost their beginning.")
    return results


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for; not where it ran."""
    names = ("model", "compare", "tasks", "languages", "limit", "template", "num_fewshot", "chat", "max_new_tokens", "max_length")
    return {name: getattr(args, name) for name in (*names, "dtype", "adapter", "judge_model")}


def _files(option: str, text: str) -> dict[str, str]:
    """Language -> file; English where no language is said. Errors: a language with two files."""
    files: dict[str, str] = {}
    for before, _, path in (part.rpartition("=") for part in _parts(text)):
        language = before or "en"
        if language in files:
            raise InputError(f"{option} has two files in '{language}', {files[language]} and {path}: give one of each language.")
        files[language] = path
    return files


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    main()
