"""Will it fit? Compiles a run's train step for a TPU slice, on a machine without one.

    python -m mpo_jax.plan --config=configs/llama31.py --topology=v5e:2x4 [--config.field=value ...]

Only the model's config.json is read: no weights, no data. Every sequence is taken to be as long as `data.max_length` allows,
or `--tokens` long. `--topologies a,b,c` compares slices; `--json` writes a line of JSON a slice.
"""

import argparse
import dataclasses
import json
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mpo_jax import hub
from mpo_jax.config import TrainConfig, parse
from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.errors import InputError, one_sentence
from mpo_jax.memory import bytes_on
from mpo_jax.models.decoder import Model
from mpo_jax.models.families import build
from mpo_jax.objective import make_objective
from mpo_jax.optim import make_optimizer
from mpo_jax.reference import stored_fields
from mpo_jax.sharding import abstract_on_mesh, batch_to_mesh, make_mesh, shards
from mpo_jax.step import abstract_state, jit_train_step, make_train_step
from mpo_jax.tpu_compiler import GIB, Memory, compile_for, devices
from mpo_jax.types import SIDES, Batch, Pair, Reads, Scores, SequenceScores, Want

UPDATES = 150  # of the learning rate's schedule, which takes no memory
LANGUAGES = ("ar", "bn", "jv", "ko", "sw", "zh")  # as many as the published data has


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one slice would hold, bytes a device."""

    topology: str
    mesh: dict[str, int]
    rows: int  # packed rows of the policy in a microbatch
    tokens: int  # a packed row
    masters: int
    moments: int
    reference: int
    logits: int  # what is never there: float32 logits of the scored positions
    memory: Memory


def plan(config: TrainConfig, topology: str, tokens: int | None = None) -> Plan:
    """Compiles the train step of `config`, whose sequences have `tokens` tokens each (by default the most that it allows).

    Errors: those of `devices`, moments that are offloaded, a mesh that the slice or the model's dimensions do not divide, a
    folder without config.json.
    """
    if config.optim.offload:
        raise InputError("optim.offload=True makes two programs of a step, which plan does not compile yet: leave it out.")
    slice_devices = devices(topology)
    mesh = make_mesh(config.mesh, slice_devices)
    _, model, _ = build(hub.resolve(config.model, weights=False), remat=config.remat)
    # A mesh of devices that are not here is for the compiler alone: anything computed under it at once would fail.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        optimizer = make_optimizer(config.optim, UPDATES)
        state = abstract_state(model.abstract(mesh), optimizer, mesh)
        live = config.reference == "live" and bool(config.loss.reference_reads.anything)
        ref_params = model.abstract(mesh, jnp.dtype(config.reference_dtype)) if live else {}
        batch = fullest_batch(config, model, mesh, config.data.max_length if tokens is None else tokens)
        objective = make_objective(model, config.loss, LANGUAGES)
        step = jit_train_step(make_train_step(objective, optimizer, jnp.dtype(config.compute_dtype)), state)
        assert isinstance(step, jax.stages.Wrapped), "one program"
        memory = compile_for(step.lower(state, ref_params, batch), slice_devices[0].device_kind)
    return Plan(
        topology,
        dict(mesh.shape),
        *batch.policy.tokens_ST.shape[1:],
        masters=bytes_on(state.params),
        moments=bytes_on(state.opt_state),
        reference=bytes_on(ref_params),
        logits=4 * math.prod(batch.policy.answer_at_SA.shape[1:]) * model.config.vocab_size // math.prod(mesh.shape.values()),
        memory=memory,
    )


def fullest_batch(config: TrainConfig, model: Model, mesh: Mesh, tokens: int) -> Batch:
    """The shapes and places of a batch whose sequences all have `tokens` tokens, nearly all of them answers."""
    if tokens < 2:
        raise InputError(f"--tokens={tokens} is no length of a sequence: it has a prompt and an answer, so write 2 or more.")
    ids = lambda n: np.zeros(n, np.int32)  # noqa: E731
    pair = TokenPair(ids(1), ids(tokens - 1), ids(tokens - 1))
    example = Example("", LANGUAGES[0], pair, pair, pair, pair)
    live = config.reference == "live"
    host = Pipeline(
        [example] * config.batch_size,
        LANGUAGES,
        config.batch_size,
        0,
        config.loss.policy_reads,
        config.loss.reference_reads if live else Reads(),
        microbatches=config.microbatches,
        shards=shards(mesh, "batch"),
    ).batch_at(0)
    if not live:
        host = dataclasses.replace(host, reference=stored_scores(config, model))
    return batch_to_mesh(host, mesh, abstract_on_mesh)


def stored_scores(config: TrainConfig, model: Model) -> Scores:
    """What `reference.CachedReference` brings with a batch."""
    reads, rows = config.loss.reference_reads, (config.microbatches, config.batch_size // config.microbatches)

    def pair(want: Want) -> Pair:
        fields = stored_fields(want, model.config.hidden_size).items()
        arrays: dict[str, Any] = {name: np.zeros((*rows, *shape), np.float32) for name, shape in fields}
        scores = SequenceScores(**arrays)
        return Pair(scores, scores)

    return Scores(**{side: pair(want) for side in SIDES if (want := reads.want(side))})


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mpo_jax.plan", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--topology", help="a slice, such as v5e:2x4")
    where.add_argument("--topologies", help="several, such as v5e:2x4,v5e:4x4")
    parser.add_argument("--tokens", type=int, help="tokens of each sequence (default: data.max_length)")
    parser.add_argument("--json", action="store_true", help="a line of JSON a slice")
    given, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    with one_sentence():
        config = parse(rest)
        found = (plan(config, name, given.tokens) for name in (given.topology or given.topologies).split(","))
        for entry in found:
            print(json.dumps(dataclasses.asdict(entry)) if given.json else describe(entry, config), flush=True)


def describe(entry: Plan, config: TrainConfig) -> str:
    memory, gib = entry.memory, lambda n: f"{n / GIB:6.2f} GiB"
    mesh = " ".join(f"{axis}={n}" for axis, n in entry.mesh.items())
    lines = [
        f"{entry.topology}: {math.prod(entry.mesh.values())} devices, {mesh}; {entry.rows} packed rows of {entry.tokens} tokens",
        f"  masters    {gib(entry.masters)}",
        f"  moments    {gib(entry.moments)}",
        f"  reference  {gib(entry.reference)}",
    ]
    if memory.temporaries is not None:
        lines.append(f"  temporary  {gib(memory.temporaries)}  activations, gradients, compute copies of the weights")
        lines.append(f"  largest    {gib(memory.largest_bytes)}  {memory.largest}; logits would be {gib(entry.logits).strip()}")
    of = "" if memory.usable is None else f" of {memory.usable / GIB:.2f} that a device has"
    verdict = "fits" if memory.fits else f"does not fit: {advice(config)}"
    return "\n".join([*lines, f"  peak       {gib(memory.peak)}{of}: {verdict}"])


def advice(config: TrainConfig) -> str:
    """What would need less, the cheapest first."""
    ways = []
    if config.reference == "live" and config.loss.reference_reads.anything:
        ways.append("--config.reference=cached")
    if config.optim.moments_dtype == "float32":
        ways.append("--config.optim.moments_dtype=bfloat16")
    if config.optim.kind == "adamw":
        ways.append("--config.optim.kind=adafactor")
    if config.remat != "full":
        ways.append("--config.remat=full")
    ways += ["a lower --config.data.max_length", "a larger slice"]
    return f"try {', '.join(ways[:-1])} or {ways[-1]}"


if __name__ == "__main__":
    main()
