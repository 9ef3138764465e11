"""How often does a model do what it should refuse, in each language? Answers, translations, verdicts, and a table with intervals.

    python -m mpo_jax.safety --model DIR --prompts FILE --output OUT --judge deng --judge-server URL --judge-model NAME \
        --translate server --translate-server URL --translate-model NAME [--compare DIR2]
    python -m mpo_jax.safety --prompts FILE --output OUT --judge llama_guard --judge-dir DIR --stage verdicts

Writes OUT/asr.json and OUT/asr.png, and everything that was said on the way (docs/safety.md). The same command goes on where it
was cut short, and asks nobody twice. With `--stage` it does one stage alone: answers on a TPU slice, verdicts elsewhere.
"""

import argparse
import contextlib
from collections.abc import Sequence

import jax

from mpo_jax import generate as answers
from mpo_jax.clients.asked import REPLAYED, AskedModel
from mpo_jax.clients.judges import registry as judges
from mpo_jax.clients.judges.base import Judge
from mpo_jax.clients.recorder import Recording
from mpo_jax.clients.translators import registry as translators
from mpo_jax.data.prompts.registry import read_prompts
from mpo_jax.devices import processes
from mpo_jax.errors import InputError, one_sentence
from mpo_jax.evaluation.safety.stages import MODELS, STAGES, Study
from mpo_jax.files.paths import output_folder, path_of
from mpo_jax.generation.base import Decoding, Responder
from mpo_jax.generation.patience import Patience
from mpo_jax.generation.run import Summary, generate
from mpo_jax.generation.server import ServedModel
from mpo_jax.types import DTYPES

KINDS = {"judge": "who says what is safe", "translate": "who translates into English"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mpo_jax.safety", description="Measures attack success per language.")
    parser.add_argument("--model", help="a folder, or a Hugging Face hub name as user/name[@revision]")
    parser.add_argument("--compare", help="a second model, the one after training; with --server, its name there")
    parser.add_argument("--output", required=True, help="a folder for answers, translations, verdicts and the table")
    parser.add_argument("--stage", choices=STAGES, help="only this stage (default: all, one after the other)")
    parser.add_argument("--judge", help=f"one of {', '.join(judges.JUDGES)}; people:FILE for a sheet that was filled in")
    parser.add_argument("--translate", choices=translators.TRANSLATORS, default="none", help="(default: %(default)s)")
    parser.add_argument(
        "--second-judge", metavar="NAME", help="how far it agrees with verdicts that are there, or with people:FILE"
    )
    parser.add_argument("--gaps", metavar="FILE", help="a reward_gap.json of these models: how gap and rate go together")
    parser.add_argument("--sample-for-people", metavar="N", type=int, help="write OUT/people.csv with N answers, to be filled in")
    answers.add_prompts(parser)
    answers.add_decoding(parser)
    answers.add_mesh(parser)
    answers.add_server(parser)
    for kind, about in KINDS.items():
        add_asked(parser, kind, about)
    keeping = parser.add_mutually_exclusive_group()
    keeping.add_argument("--record", metavar="FILE", help="keep every answer of a server in this file")
    keeping.add_argument("--replay", metavar="FILE", help="ask no server: all its answers are in this file")
    processes.add_options(parser)
    parser.set_defaults(tokens=False)
    args = parser.parse_args(argv)
    if not computes(args):
        jax.config.update("jax_platforms", "cpu")  # a server may be on this machine, and need all of its accelerators
    with one_sentence(), processes.joined(processes.hosts_of(args)), one_sentence():
        run(args)


def add_asked(parser: argparse.ArgumentParser, kind: str, about: str) -> None:
    """The options of a judge or a translator that is a model."""
    options = parser.add_argument_group(kind, about)
    options.add_argument(f"--{kind}-server", metavar="URL", help="a server with OpenAI's interface")
    options.add_argument(f"--{kind}-model", metavar="NAME", help="the model's name on the server")
    options.add_argument(f"--{kind}-prompt", metavar="FILE", help="another wording (docs/safety.md)")
    options.add_argument(f"--{kind}-key-env", metavar="NAME", help=f"environment variable with the key (default: {answers.KEY})")
    if kind == "judge":
        options.add_argument("--judge-dir", metavar="DIR", help="a model for these devices; with a server, its tokenizer")
        options.add_argument("--judge-tokens", metavar="N", type=int, help=f"most tokens of a reply (default: {judges.MOST})")
        options.add_argument("--judge-dtype", choices=DTYPES, default=AskedModel.dtype, help="(default: %(default)s)")
    else:
        options.add_argument("--translate-dir", metavar="DIR", help="of nllb: a folder converted for CTranslate2")


def run(args: argparse.Namespace) -> None:
    """What the command does, in each of its processes. Errors: those of its parts; options that contradict each other."""
    stages = STAGES if args.stage is None else (args.stage,)
    check(args, stages)
    output, recording = output_folder(args.output), recording_of(args)
    with contextlib.nullcontext() if recording is None else contextlib.closing(recording):
        translate = translators.Given(asked(args, "translate", recording), args.translate_prompt, recording)
        given = judges.Given(asked(args, "judge", recording), args.judge_prompt, most=args.judge_tokens)
        judge = judges.judge(args.judge, given) if args.judge else None
        every = read_prompts(args.prompts, side=args.side or "target")
        translator = translators.translator(args.translate, translate)
        study = Study(output, answers.prompts_of(args), every, args.samples, translator)
        if "responses" in stages and (args.stage or args.model or served(args)):
            respond(args, study, recording)
        languages = None if judge is None else judge.languages
        if "translations" in stages and (args.stage or translator is not None):
            say("translations", study.translate(languages))
        if args.sample_for_people is not None:
            count = study.sample_for_people(output / "people.csv", args.sample_for_people)
            processes.say(f"{output / 'people.csv'}: {count} answers for people to judge")
        if judge is not None:
            judged(args, study, judge, given, stages)


def judged(args: argparse.Namespace, study: Study, judge: Judge, given: judges.Given, stages: Sequence[str]) -> None:
    """The last two stages."""
    if "verdicts" in stages:
        for label, summary in study.judge(judge).items():
            say(f"verdicts, {label}", summary)
    if "table" in stages:
        second = None if args.second_judge is None else judges.judge_of_folder(args.second_judge, given)
        if second is not None and str(args.second_judge).startswith("people:"):
            study.judge(second)
        gaps = None if args.gaps is None else path_of(args.gaps)
        processes.say(study.tabulate(judge, gaps=gaps, second=second))


def respond(args: argparse.Namespace, study: Study, recording: Recording | None) -> None:
    """The first stage, one model after the other."""
    decoding = answers.decoding_of(args)
    names = {"model": args.served_model if served(args) else args.model, "compare": args.compare}
    for model in MODELS:
        if model == "model" or args.compare is not None:
            # No name holds the first model's weights while the second one's are loaded.
            summary = generate(
                study.prompts,
                answering(args, names[model], adapter(args, model), decoding, recording),
                study.responses(model),
                samples=args.samples,
            )
            say(f"responses, {model}", summary)


def adapter(args: argparse.Namespace, model: str) -> str | None:
    """The last model named has the adapter: a model is compared with itself and an adapter."""
    return args.adapter if model == "compare" or args.compare is None else None


def answering(
    args: argparse.Namespace, name: str | None, adapter: str | None, decoding: Decoding, recording: Recording | None
) -> Responder:
    """The model of this name, on the server that the options name, in a recording, or on these devices."""
    if not served(args):  # --concurrency and --timeout are then those of judges and translators
        which = {"model": name, "adapter": adapter, "concurrency": None, "timeout": None}
        return answers.engine_responder(argparse.Namespace(**{**vars(args), **which}), decoding)
    which = {"served_model": name, "server": args.server or REPLAYED}
    responder = answers.served_responder(argparse.Namespace(**{**vars(args), **which}), decoding)
    if recording is None or not recording.replays:
        responder.check()
    return responder if recording is None else recording.wrap(responder)


def computes(args: argparse.Namespace) -> bool:
    """Whether a model runs on these devices."""
    stages = STAGES if args.stage is None else (args.stage,)
    answers_here = "responses" in stages and args.model is not None and not served(args)
    return answers_here or ("verdicts" in stages and args.judge_dir is not None and args.judge_server is None)


def served(args: argparse.Namespace) -> bool:
    """Whether the model that answers is a served one, or was when it was recorded."""
    return args.server is not None or (args.served_model is not None and args.replay is not None)


def check(args: argparse.Namespace, stages: Sequence[str]) -> None:
    """Errors: options that are missing, or that belong to something else."""
    if jax.process_count() > 1 and args.stage != "responses":
        raise InputError(
            f"These {jax.process_count()} processes would wait for judges and translators: give --stage responses here, and run "
            "the other stages in one process."
        )
    if jax.process_count() > 1 and (args.record or args.replay):
        raise InputError("A recording is of one process: leave --record and --replay out here.")
    if "verdicts" in stages and args.judge is None and args.sample_for_people is None:
        raise InputError("Who judges? Give --judge, or --stage responses or translations alone.")
    if args.compare is not None and not (args.model or served(args)):
        raise InputError(f"--compare {args.compare} is compared with a first model: give --model too, or leave it out.")
    if args.stage == "table" and args.judge is None:
        raise InputError("Whose verdicts are in the table? Give --judge.")
    for option in ("second_judge", "gaps"):
        if getattr(args, option) is not None and ("table" not in stages or args.judge is None):
            raise InputError(f"--{option.replace('_', '-')} belongs to the table: give --judge, and no --stage but table.")


def recording_of(args: argparse.Namespace) -> Recording | None:
    path = args.record or args.replay
    return None if path is None else Recording(path_of(path), replays=args.replay is not None)


def asked(args: argparse.Namespace, kind: str, recording: Recording | None) -> AskedModel:
    """The model that is asked to judge or to translate."""
    get = lambda name: getattr(args, f"{kind}_{name}")  # noqa: E731
    return AskedModel(
        kind,
        get("server"),
        get("model"),
        get("dir"),
        answers.key_of(f"--{kind}-key-env", get("key_env")),
        ServedModel.concurrency if args.concurrency is None else args.concurrency,
        Patience() if args.timeout is None else Patience(timeout=args.timeout),
        recording,
        args.judge_dtype,
        answers.BATCH_SIZE if args.batch_size is None else args.batch_size,
    )


def say(what: str, summary: Summary | None) -> None:
    processes.say(f"{what}: {'all there' if summary is None else summary.sentence()}")


if __name__ == "__main__":
    main()
