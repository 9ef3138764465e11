"""What can a model learn from itself? Makes rows to train on, by a published recipe, from prompts and the model's own answers.

    python -m mpo_jax.build --recipe on_policy --model DIR --prompts FILE --languages sw,bn --output OUT \
        --judge deng --judge-server URL --judge-model NAME --translate nllb --translate-dir DIR
    python -m mpo_jax.build --recipe on_policy --help

Writes OUT/rows.jsonl, which `mpo_jax.train` and `mpo_jax.preview` read, an audit of it, what was dropped and why, and a manifest
(docs/recipes.md). The same command goes on where it was cut short, and asks nobody twice. With `--stage` it does one stage alone:
answers on a TPU slice, translations elsewhere.
"""

import argparse
import contextlib
import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mpo_jax import generate as answers
from mpo_jax import safety as asking
from mpo_jax.clients.asked import REPLAYED
from mpo_jax.clients.judges import registry as judges
from mpo_jax.clients.recorder import Recording
from mpo_jax.clients.translators import registry as translators
from mpo_jax.clients.translators.base import Translator
from mpo_jax.data.chat_format import TEMPLATES
from mpo_jax.data.conversation import Conversation
from mpo_jax.devices import processes
from mpo_jax.errors import InputError, one_sentence
from mpo_jax.files import hub
from mpo_jax.files.paths import path_of
from mpo_jax.generation.base import Decoding
from mpo_jax.models.families.registry import build as build_model
from mpo_jax.recipes import registry, sources
from mpo_jax.recipes.alignment import Aligner, Nllb, ServedAligner
from mpo_jax.recipes.base import Build, Recipe, meanings
from mpo_jax.recipes.own_model import OnDevices, OwnModel, Served
from mpo_jax.recipes.run import JUDGED, ROWS, carry_out
from mpo_jax.recipes.writing import RULES

KINDS = {"judge": "who says what is safe", "translate": "who translates into the target languages"}


def main(argv: Sequence[str] | None = None) -> None:
    args, recipe_type = parsed(argv)
    with one_sentence():
        recipe = recipe_of(args, recipe_type)
    if not computes(args, recipe):
        jax.config.update("jax_platforms", "cpu")  # a server may be on this machine, and need all of its accelerators
    with one_sentence(), processes.joined(processes.hosts_of(args)), one_sentence():
        run(args, recipe)


def parsed(argv: Sequence[str] | None) -> tuple[argparse.Namespace, type[Recipe]]:
    """The options, which depend on the recipe, and its type."""
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--recipe")
    name = first.parse_known_args(argv)[0].recipe
    parser = argparse.ArgumentParser(
        prog="python -m mpo_jax.build", description="Makes rows from a model's own answers. --recipe NAME --help: its options."
    )
    parser.add_argument("--recipe", required=True, choices=registry.RECIPES)
    parser.add_argument("--prompts", required=True, help="a file of prompts or of rows, PKU-SafeRLHF's included")
    parser.add_argument("--languages", required=True, help="the target languages, such as sw,bn")
    parser.add_argument("--dominant", default="en", help="the language that the model is best in (default: %(default)s)")
    parser.add_argument("--output", required=True, help="a folder for the rows and everything that they were made of")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N prompts that the recipe can use")
    parser.add_argument(
        "--stage",
        metavar="NAME",
        help=f"only this stage, '{ROWS}' the last (default: all); '{JUDGED}' has a judge read every answer of the rows",
    )
    parser.add_argument("--drop", metavar="RULES", help=f"leave out rows of these kinds: {','.join(RULES)}")
    parser.add_argument("--model", help="a folder, or a Hugging Face hub name as user/name[@revision]")
    parser.add_argument(
        "--template",
        choices=TEMPLATES,
        help="authors: the chat format of MPO's authors for this family; hf: the tokenizer's own (default: authors)",
    )
    parser.add_argument("--judge", help=f"one of {', '.join(judges.JUDGES)}")
    parser.add_argument("--translate", choices=[n for n in translators.TRANSLATORS if n != "none"])
    if name in registry.RECIPES:
        add_recipe(parser, name, registry.RECIPES[name])
    answers.add_mesh(parser)
    answers.add_server(parser)
    for kind, about in KINDS.items():
        asking.add_asked(parser, kind, about)
    keeping = parser.add_mutually_exclusive_group()
    keeping.add_argument("--record", metavar="FILE", help="keep every answer of a server in this file")
    keeping.add_argument("--replay", metavar="FILE", help="ask no server: all its answers are in this file")
    processes.add_options(parser)
    parser.set_defaults(tokens=False)
    args = parser.parse_args(argv)
    return args, registry.RECIPES[args.recipe]


def add_recipe(parser: argparse.ArgumentParser, name: str, recipe_type: type[Recipe]) -> None:
    """An option for each field of the recipe."""
    options = parser.add_argument_group(f"the recipe {name}", (recipe_type.__doc__ or "").partition("\n")[0])
    hints, about = typing.get_type_hints(recipe_type), meanings(recipe_type)
    for field in dataclasses.fields(recipe_type):  # pyright: ignore[reportArgumentType]
        kind, default = hints[field.name], field.default
        option, shown = f"--{field.name.replace('_', '-')}", f"{about[field.name]} (default: {default})"
        if kind is bool:
            options.add_argument(option, action=argparse.BooleanOptionalAction, default=default, help=shown)
        elif typing.get_origin(kind) is typing.Literal:
            options.add_argument(option, choices=typing.get_args(kind), default=default, help=shown)
        else:
            one = next(t for t in typing.get_args(kind) or (kind,) if t is not types.NoneType)
            options.add_argument(option, type=one, default=default, help=shown if default is not None else about[field.name])


def recipe_of(args: argparse.Namespace, recipe_type: type[Recipe]) -> Recipe:
    """Errors: those of the recipe."""
    names = [field.name for field in dataclasses.fields(recipe_type)]  # pyright: ignore[reportArgumentType]
    return recipe_type(**{name: getattr(args, name) for name in names})


def run(args: argparse.Namespace, recipe: Recipe) -> None:
    """What the command does, in each of its processes. Errors: those of its parts."""
    recording = asking.recording_of(args)
    if jax.process_count() > 1 and recording is not None:
        raise InputError("A recording is of one process: leave --record and --replay out here.")
    languages = tuple(name.strip() for name in args.languages.split(","))
    every = sources.read_sources(args.prompts, args.dominant, languages)
    chosen, left_out = sources.selected(every, recipe.usable, args.limit)
    with contextlib.nullcontext() if recording is None else contextlib.closing(recording):
        judge = None
        if args.judge is not None:
            given = judges.Given(asking.asked(args, "judge", recording), args.judge_prompt, most=args.judge_tokens)
            judge = judges.judge(args.judge, given)
        build = Build(
            path_of(args.output),
            chosen,
            args.dominant,
            languages,
            model=own_model(args, recipe, recording),
            load=lambda name: on_devices(args, name, adapter=None),
            translator=None if args.translate is None else lambda language: translator(args, language, recording),
            judge=judge,
            aligner=aligner_of(args),
        )
        carry_out(
            args.recipe,
            recipe,
            build,
            models=models_of(args, recipe, build),
            stage=args.stage,
            drop=[] if args.drop is None else [name.strip() for name in args.drop.split(",")],
            left_out=left_out,
            say=processes.say,
        )


def models_of(args: argparse.Namespace, recipe: Recipe, build: Build) -> Mapping[str, Any]:
    """What those who are given are known by. A model that these stages do not ask is not downloaded for it."""
    known: dict[str, Any] = {}
    asked = {stage.who for stage in recipe.stages if args.stage in (None, stage.name)} & {"model", "scorer"}
    given = {"model": build.model}
    for field in dataclasses.fields(recipe):  # pyright: ignore[reportArgumentType]
        if field.metadata.get("model") and (name := getattr(recipe, field.name)) is not None:
            given[field.name] = on_devices(args, name, adapter=None)
    for role, model in given.items():
        if model is not None and (asked or not isinstance(model, OnDevices) or path_of(model.name).is_dir()):
            known[role] = model.known
    if build.judge is not None and args.stage != JUDGED:  # where any judge may be asked, one after the other
        known["judge"] = build.judge.name
    if build.translator is not None:
        known["translator"] = build.translator(build.languages[0]).name
    if build.aligner is not None:
        known["scorer"] = build.aligner.settings
    return known


def aligner_of(args: argparse.Namespace) -> Aligner | None:
    """Who scores translations, where a recipe has one. Errors: options that contradict each other."""
    folder, server, name = (getattr(args, f"scorer_{what}", None) for what in ("dir", "server", "model"))
    if folder is not None and (server or name):
        raise InputError("--scorer-dir and --scorer-server are two scorers: leave one of them out.")
    if (server is None) != (name is None):
        raise InputError("--scorer-server and --scorer-model belong together: give both.")
    if folder is not None:
        return Nllb(path_of(folder))
    if server is None or name is None:
        return None
    return ServedAligner(server, name, answers.key_of("--api-key-env", args.api_key_env), args.concurrency or 32)


def own_model(args: argparse.Namespace, recipe: Recipe, recording: Recording | None) -> OwnModel | None:
    """The model that the options name, if they name one. Errors: options that contradict each other."""
    if not asking.served(args):
        if args.chat or args.served_model:
            option = "--chat" if args.chat else "--served-model"
            raise InputError(f"{option} is for a served model: give --server too, or leave it out.")
        return None if args.model is None else on_devices(args, args.model, adapter=args.adapter)
    which = {"server": args.server or REPLAYED}
    if any(field.metadata.get("model") for field in dataclasses.fields(recipe)):  # pyright: ignore[reportArgumentType]
        which |= dict.fromkeys(("dtype", "batch_size", "tensor", "width"))  # those of the models that score, on these devices
    served = answers.served_responder(argparse.Namespace(**{**vars(args), **which}), Decoding())
    conversation = None
    if args.model is not None:
        folder = hub.resolve(args.model, weights=False)
        template = args.template or "authors"
        conversation = Conversation.of(folder, build_model(folder)[0].authors_chat if template == "authors" else None, template)
    return Served(served, conversation, recording)


def on_devices(args: argparse.Namespace, name: str, adapter: str | None) -> OnDevices:
    return OnDevices(
        name,
        args.template or "authors",
        args.dtype or "bfloat16",
        answers.BATCH_SIZE if args.batch_size is None else args.batch_size,
        args.tensor,
        args.width,
        adapter,
    )


def translator(args: argparse.Namespace, language: str, recording: Recording | None) -> Translator:
    given = translators.Given(asking.asked(args, "translate", recording), args.translate_prompt, recording)
    found = translators.translator(args.translate, given, language)
    assert found is not None, "'none' is no choice here"
    return found


def computes(args: argparse.Namespace, recipe: Recipe) -> bool:
    """Whether a model runs on these devices."""
    asked = {stage.who for stage in recipe.stages if args.stage in (None, stage.name)} | (
        {"judge"} if args.stage == JUDGED else set()
    )
    answers_here = "model" in asked and args.model is not None and not asking.served(args)
    scores_here = "scorer" in asked
    return answers_here or scores_here or ("judge" in asked and args.judge_dir is not None and args.judge_server is None)


if __name__ == "__main__":
    main()
