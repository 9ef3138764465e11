"""What does a model answer? Writes samples of its answers to every prompt of a set.

    python -m mpo_jax.generate --model DIR --prompts FILE --output OUT
    python -m mpo_jax.generate --server URL --served-model NAME --chat --prompts FILE --output OUT
    python -m mpo_jax.generate --server URL --served-model NAME --model DIR --prompts FILE --output OUT

With `--server` any server with OpenAI's interface answers. With `--chat` it renders the conversations itself; with `--model`, a
folder with the tokenizer, they are rendered here, as training renders them.

Writes OUT/responses.jsonl, a line for each answer, and OUT/generation.json, the settings. The same command goes on where it was
cut short, and tries errors again. On a cluster every process runs the command; elsewhere `--hosts.coordinator`, `--hosts.count`
and `--hosts.index` join several processes.
"""

import argparse
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mpo_jax.data.chat_format import TEMPLATES
from mpo_jax.data.conversation import Conversation
from mpo_jax.data.prompts.base import Prompt
from mpo_jax.data.prompts.registry import read_prompts
from mpo_jax.devices import processes
from mpo_jax.errors import InputError, one_sentence
from mpo_jax.files import hub
from mpo_jax.files.paths import path_of
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.engine import Engine, load_engine
from mpo_jax.generation.patience import Patience
from mpo_jax.generation.run import generate
from mpo_jax.generation.server import NO_KEY, Rendering, ServedModel
from mpo_jax.models.families.registry import build
from mpo_jax.types import DTYPES, SIDES

KEY = "OPENAI_API_KEY"
BATCH_SIZE = 32


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mpo_jax.generate", description="Writes a model's answers to prompts.")
    parser.add_argument("--model", help="a folder, or a Hugging Face hub name as user/name[@revision]")
    parser.add_argument("--output", required=True, help="a folder for responses.jsonl and generation.json")
    add_prompts(parser)
    parser.add_argument("--tokens", action="store_true", help="write the ids of the answers' tokens too")
    add_decoding(parser)
    add_mesh(parser)
    add_server(parser)
    processes.add_options(parser)
    args = parser.parse_args(argv)
    if args.server:
        jax.config.update("jax_platforms", "cpu")  # the server may be on this machine, and need all of its accelerators
    with one_sentence(), processes.joined(processes.hosts_of(args)), one_sentence():
        run(args)


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """The options of which prompts are answered, and in which chat format."""
    parser.add_argument("--prompts", required=True, help="a file of prompts, or several with commas between them")
    parser.add_argument("--languages", help="only prompts in these, such as sw,bn (default: all)")
    parser.add_argument("--side", choices=SIDES, help="which prompts of rows of preferences (default: target)")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N prompts of each language")
    parser.add_argument(
        "--template",
        choices=TEMPLATES,
        help="authors: the chat format of MPO's authors for this family; hf: the tokenizer's own (default: authors)",
    )


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """The options of `Decoding`."""
    options, default = parser.add_argument_group("decoding"), Decoding()
    options.add_argument("--samples", type=int, default=default.samples, help="answers to each prompt (default: %(default)s)")
    options.add_argument(
        "--temperature", type=float, default=default.temperature, help="0: the most probable token (default: %(default)s)"
    )
    options.add_argument(
        "--top-p", type=float, default=default.top_p, help="only tokens that together reach this probability (default: all)"
    )
    options.add_argument("--top-k", type=int, default=default.top_k, help="only the k most probable tokens (default: all)")
    options.add_argument(
        "--max-new-tokens", type=int, default=default.max_new_tokens, help="most tokens of an answer (default: %(default)s)"
    )
    options.add_argument("--seed", type=int, default=default.seed, help="of the samples (default: %(default)s)")


def add_mesh(parser: argparse.ArgumentParser) -> None:
    """The options of a model on this run's own devices."""
    options = parser.add_argument_group("a model on these devices")
    options.add_argument("--adapter", help="a LoRA adapter of --model, a folder as PEFT saves it")
    options.add_argument("--dtype", choices=DTYPES, help="dtype of weights, caches and computation (default: bfloat16)")
    options.add_argument("--batch-size", type=int, help=f"answers written together (default: {BATCH_SIZE})")
    options.add_argument(
        "--tensor", type=int, help="number of devices that split heads, layers and vocabulary (default: as few as have room)"
    )
    options.add_argument("--width", type=int, help="number of devices that split every matrix once more (default: 1)")


def add_server(parser: argparse.ArgumentParser) -> None:
    """The options of `ServedModel`. Without a server there are none of them."""
    options = parser.add_argument_group("a served model", "needs the package openai")
    options.add_argument("--server", metavar="URL", help="a server with OpenAI's interface, such as http://localhost:8000/v1")
    options.add_argument("--served-model", metavar="NAME", help="the model's name on the server")
    options.add_argument(
        "--chat", action="store_true", help="the server renders conversations, instead of --model and --template"
    )
    options.add_argument("--concurrency", type=int, help=f"most requests at once (default: {ServedModel.concurrency})")
    options.add_argument(
        "--timeout", metavar="SECONDS", type=float, help=f"how long one answer may take (default: {Patience.timeout:.0f})"
    )
    options.add_argument("--api-key-env", metavar="NAME", help=f"environment variable that holds the key (default: {KEY})")


def run(args: argparse.Namespace) -> None:
    """What the command does, in each of its processes. Errors: those of the prompts, the model or server, and the folder."""
    decoding, output, prompts = decoding_of(args), path_of(args.output), prompts_of(args)
    responder = responder_of(args, decoding)
    summary = generate(prompts, responder, output, samples=decoding.samples, tokens=args.tokens)
    processes.say(f"{output}: {summary.sentence()}")
    if isinstance(responder, Engine):
        processes.say(f"{responder.spent}.")


def decoding_of(args: argparse.Namespace) -> Decoding:
    """Errors: those of `Decoding`."""
    return Decoding(args.samples, args.temperature, args.top_p, args.top_k, args.max_new_tokens, args.seed)


def prompts_of(args: argparse.Namespace) -> list[Prompt]:
    """Those that are asked for. Errors: those of `read_prompts`."""
    languages = [name.strip() for name in args.languages.split(",")] if args.languages else None
    return read_prompts(args.prompts, languages=languages, limit=args.limit, side=args.side or "target")


def responder_of(args: argparse.Namespace, decoding: Decoding) -> Engine | ServedModel:
    """The model that the options name; a server has answered once. Errors: those of either kind, and of `ServedModel.check`."""
    if not args.server:
        return engine_responder(args, decoding)
    served = served_responder(args, decoding)
    served.check()
    return served


def engine_responder(args: argparse.Namespace, decoding: Decoding) -> Engine:
    """The model on this run's own devices. Errors: options of a server; those of the model, the chat format and the mesh."""
    for option in ("served_model", "chat", "concurrency", "timeout", "api_key_env"):
        if getattr(args, option) not in (None, False):
            raise InputError(f"--{option.replace('_', '-')} is for a served model: give --server too, or leave it out.")
    if args.model is None:
        raise InputError("No model was given to answer the prompts: give --model, or --server and --served-model.")
    return load_engine(
        hub.resolve(args.model),
        decoding,
        template=args.template or "authors",
        dtype=jnp.dtype(args.dtype or "bfloat16"),
        batch_size=BATCH_SIZE if args.batch_size is None else args.batch_size,
        tensor=args.tensor,
        width=args.width,
        adapter=args.adapter,
    )


def served_responder(args: argparse.Namespace, decoding: Decoding) -> ServedModel:
    """A server that has not been asked anything yet. Errors: options that contradict each other; those of `ServedModel`."""
    for option in ("adapter", "dtype", "batch_size", "tensor", "width"):
        if getattr(args, option) is not None:
            raise InputError(f"--{option.replace('_', '-')} is for a model on these devices: leave it or --server out.")
    if args.served_model is None:
        raise InputError(f"--server {args.server} may have several models: give --served-model too, the name of one.")
    if args.tokens:
        raise InputError("--tokens needs ids, which a server does not tell: leave it out, or give --model without --server.")
    if args.chat and (given := "--model" if args.model else "--template" if args.template else None):
        raise InputError(
            f"--chat says that the server renders conversations, and {given} that they are rendered here: leave one of them out."
        )
    if not args.chat and not args.model:
        raise InputError(
            f"Who renders conversations for --server {args.server}? Give --chat, and it does, or --model, a folder with the "
            "tokenizer, and they are rendered here."
        )
    return ServedModel(
        args.server,
        args.served_model,
        decoding,
        rendering_of(args.model, args.template or "authors") if args.model else None,
        ServedModel.concurrency if args.concurrency is None else args.concurrency,
        key_of("--api-key-env", args.api_key_env),
        Patience() if args.timeout is None else Patience(timeout=args.timeout),
    )


def key_of(option: str, variable: str | None) -> str:
    """The key in an environment variable: the one that `option` names, or the usual one. Errors: one that is named and unset."""
    key = os.environ.get(variable or KEY)
    if variable and not key:
        raise InputError(f"{option} {variable} is not set: put the key into this environment variable.")
    return key or NO_KEY


def rendering_of(model: str, template: str) -> Rendering:
    """Conversations as training renders them, as ids: a server would put another beginning-of-text token before a text."""
    folder = hub.resolve(model, weights=False)
    authors = build(folder)[0].authors_chat if template == "authors" else None
    conversation = Conversation.of(folder, authors, template)
    return Rendering(lambda messages: conversation.tokens(messages).tolist(), conversation.settings, conversation.stop_ids)


if __name__ == "__main__":
    main()
