"""How are other languages' harmful prompts made to reach the neurons that refuse in the dominant one? Without training.

    python -m mpo_jax.edit --model DIR --harmful FILE --harmless FILE --languages sw,bn --output OUT

Sparse Weight Editing (arXiv:2602.22554): writes OUT/model, a checkpoint whose gate and up projections have a change of low rank,
OUT/neurons.json and OUT/overlap.png. The same command goes on where it was cut short. With `--inputs` other settings are tried on
the inputs of an earlier run, without another forward pass. docs/editing.md says more.
"""

import argparse
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mpo_jax.data.conversation import Conversation
from mpo_jax.data.prompts.registry import read_prompts
from mpo_jax.devices import processes
from mpo_jax.devices.sharding import MeshConfig, make_mesh
from mpo_jax.editing.layer_edit import GATE_TARGETS, EditConfig
from mpo_jax.editing.low_rank import Penalty
from mpo_jax.editing.mlp_inputs import POSITIONS, Forward
from mpo_jax.editing.neurons import Thresholds
from mpo_jax.editing.stages import Edit, by_language, digest
from mpo_jax.errors import InputError, one_sentence
from mpo_jax.files import hub
from mpo_jax.files.digests import fingerprint, sampled
from mpo_jax.files.paths import output_folder, path_of
from mpo_jax.models.families.registry import build
from mpo_jax.reward_gap import add_forward


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mpo_jax.edit", description="Edits a model's weights for safety.")
    parser.add_argument("--model", required=True, help="a folder, or a Hugging Face hub name as user/name[@revision]")
    parser.add_argument("--harmful", required=True, help="a file of harmful prompts, parallel in all languages")
    parser.add_argument("--harmless", required=True, help="a file of harmless prompts in all languages")
    parser.add_argument("--languages", required=True, help="those that are to become safer, such as sw,bn")
    parser.add_argument("--dominant", default="en", help="the language that is safe (default: %(default)s)")
    parser.add_argument("--output", required=True, help="a folder for the edited model and what is known of its neurons")
    parser.add_argument("--inputs", help="the inputs of an earlier run, its OUT/inputs (default: OUT/inputs)")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N prompts of each kind and language")
    parser.add_argument(
        "--position", choices=POSITIONS, default="last_prompt", help="which state stands for a prompt (default: %(default)s)"
    )
    add_forward(parser)
    add_edit(parser)
    processes.add_options(parser)
    args = parser.parse_args(argv)
    with one_sentence(), processes.joined(processes.hosts_of(args)), one_sentence():
        run(args)


def add_edit(parser: argparse.ArgumentParser) -> None:
    """The options of `EditConfig`."""
    options, default = parser.add_argument_group("edit"), EditConfig()
    number = {"type": float, "metavar": "X"}
    options.add_argument("--rank", default=str(default.rank), help="of each change, a number or 'full' (default: %(default)s)")
    options.add_argument("--layers", help="only these, such as 8-23 or 0,5,9-12 (default: all)")
    options.add_argument(
        "--z", **number, default=default.thresholds.z, help="least z-score of a safety neuron (default: %(default)s)"
    )
    options.add_argument("--d", **number, default=default.thresholds.d, help="or its least Cohen's d (default: %(default)s)")
    options.add_argument(
        "--gamma", **number, default=default.penalty.gamma, help="weight of harmless prompts (default: %(default)s)"
    )
    options.add_argument(
        "--ridge", **number, default=default.penalty.ridge, help="weight of the change's size (default: %(default)s)"
    )
    options.add_argument(
        "--gate-target",
        choices=GATE_TARGETS,
        default=default.gate_target,
        help="before or after activation (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """What the command does, in each of its processes. Errors: those of the model, the prompts and the edit."""
    if args.rank != "full" and not args.rank.isdigit():
        raise InputError(f"--rank {args.rank} is no rank: write a number, or 'full'.")
    rank = None if args.rank == "full" else int(args.rank)
    config = EditConfig(rank, args.gate_target, Thresholds(args.z, args.d), Penalty(args.gamma, args.ridge))
    languages = [args.dominant, *(name.strip() for name in args.languages.split(","))]
    if len(set(languages)) < len(languages):
        raise InputError(
            f"--languages {args.languages} names a language twice, or the dominant one, '{args.dominant}': leave it out."
        )
    output = output_folder(args.output)
    harmful, harmless = (read_prompts(file, languages=languages, limit=args.limit) for file in (args.harmful, args.harmless))
    asked = by_language(harmful, harmless, languages)
    model_dir = hub.resolve(args.model)
    family, model, _ = build(model_dir)
    layers = layers_of(args.layers, model.config.layers)
    conversation = Conversation.of(model_dir, family.authors_chat, args.template)
    tokens = {
        kind: {language: [conversation.tokens(p.messages) for p in prompts] for language, prompts in of_kind.items()}
        for kind, of_kind in asked.items()
    }
    settings = {
        "model": fingerprint(sampled(model_dir, hub.ALL_FILES)),
        "prompts": {kind: {language: digest(ids) for language, ids in of.items()} for kind, of in tokens.items()},
        "languages": languages,
        "chat": conversation.settings,
        "position": args.position,
        "dtype": args.dtype,
    }
    edit = Edit(output, output / "inputs" if args.inputs is None else path_of(args.inputs), model_dir, model, family)
    mesh = make_mesh(MeshConfig(fsdp=args.fsdp, tensor=args.tensor))
    forward = Forward(model_dir, model, family, mesh, jnp.dtype(args.dtype), 0, args.position)
    with jax.set_mesh(mesh):
        edit.read_inputs(forward, tokens, settings)
    counts = {kind: len(asked[kind][args.dominant]) for kind in asked}
    written = edit.write_model(config, layers, {"model": args.model, "languages": languages, **counts})
    if written is not None:
        print(f"{output / 'model'}: {written}")


def layers_of(given: str | None, count: int) -> list[int]:
    """ "0,5,9-12" -> the numbers of these layers, counted from 0; None -> all. Errors: text that is no such list; a layer that
    the model does not have."""
    if given is None:
        return list(range(count))
    found: list[int] = []
    for part in given.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()) or int(last or first) < int(first):
            raise InputError(f"--layers {given} is not a list of layers: write numbers and ranges, such as 0,5,9-12.")
        found += range(int(first), int(last or first) + 1)
    if max(found) >= count:
        raise InputError(f"--layers {given} names layer {max(found)}, but the model has {count}, numbered from 0: choose others.")
    return sorted(set(found))


if __name__ == "__main__":
    main()
