"""Will it fit? Compiles a run's programs for a TPU slice, on a machine without one.

    python -m mpo_jax.plan --config=configs/llama31.py --topology=v5e:2x4 [--config.field=value ...]
    python -m mpo_jax.plan --config=configs/llama31.py --search [--topologies=v5e:2x4,v5e:4x4]

Only the model's config.json is read: no weights, no data. Every sequence is taken to be as long as `data.max_length` allows,
or `--tokens` long. `--topologies a,b,c` compares slices; `--search` looks for the smallest one that fits, and for its mesh.
"""

import argparse
import dataclasses
import json
import math
import sys

from mpo_jax.errors import InputError, one_sentence
from mpo_jax.planning.programs import lay_out
from mpo_jax.planning.slice_fit import SliceReport, compiled
from mpo_jax.planning.slice_search import SearchResult, flags, search
from mpo_jax.planning.tpu_compiler import EXAMPLES, GIB
from mpo_jax.training.config import TrainConfig, parse


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mpo_jax.plan", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--topology", "--topologies", help="a slice, such as v5e:2x4, or several: v5e:2x4,v5e:4x4")
    parser.add_argument("--search", action="store_true", help="find the smallest of them that fits, or of all that there are")
    parser.add_argument("--slices", type=int, default=1, help="this many such slices, joined along the mesh's data axis")
    parser.add_argument("--tokens", type=int, help="tokens of each sequence (default: data.max_length)")
    parser.add_argument("--mfu", type=float, help="say how long an update takes at this share of the peak FLOP/s, such as 0.4")
    parser.add_argument("--json", action="store_true", help="a line of JSON a slice, or a generation that was searched")
    given, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    with one_sentence():
        config = parse(rest)
        names = given.topology.split(",") if given.topology else []
        _check(given, names)
        if given.search:
            answers = search(config, names, given.tokens, given.slices, lambda line: print(line, file=sys.stderr, flush=True))
        else:
            answers = (compiled(lay_out(config, name, given.tokens, given.slices)) for name in names)
        for answer in answers:
            said = (
                recommend(answer, config, given.mfu) if isinstance(answer, SearchResult) else describe(answer, config, given.mfu)
            )
            print(json.dumps(dataclasses.asdict(answer)) if given.json else said, flush=True)


def _check(given: argparse.Namespace, names: list[str]) -> None:
    if not names and not given.search:
        raise InputError(f"Neither a slice nor --search was given: write --topology= with one such as {EXAMPLES}, or --search.")
    if given.slices < 1:
        raise InputError(f"--slices={given.slices} is no number of slices: write 1 or more.")
    if given.mfu is not None and not 0 < given.mfu <= 1:
        raise InputError(f"--mfu={given.mfu} is no share of the peak: write a number above 0 and up to 1, such as 0.4.")


def recommend(found: SearchResult, config: TrainConfig, mfu: float | None) -> str:
    """What to write for the smallest slice that fits."""
    if found.plan is None or found.settings is None:
        reference = "cached" if config.loss.reference_reads.storable else config.reference
        least = dataclasses.replace(config, reference=reference, remat="full")  # has been tried
        return f"{found.generation}: does not fit {', '.join(found.tried)}: {advice(least)}"
    lines = [f"{found.generation}: the smallest slice that fits is {found.plan.topology}, with", f"  {flags(found.settings)}"]
    return "\n".join([*lines, describe(found.plan, config, mfu)])


def describe(entry: SliceReport, config: TrainConfig, mfu: float | None = None) -> str:
    step, gib = entry.programs["step"], lambda n: f"{n / GIB:6.2f} GiB"
    mesh = " ".join(f"{axis}={n}" for axis, n in entry.mesh.items())
    where = entry.topology if entry.slices == 1 else f"{entry.slices} x {entry.topology}"
    lines = [
        f"{where}: {math.prod(entry.mesh.values())} devices, {mesh}; {entry.rows} packed rows of {entry.tokens} tokens",
        f"  masters    {gib(entry.masters)}",
        f"  moments    {gib(entry.moments)}",
        f"  reference  {gib(entry.reference)}",
    ]
    if step.temporaries is not None:
        lines.append(f"  temporary  {gib(step.temporaries)}  activations, gradients, compute copies of the weights")
    if step.largest_bytes is not None:
        lines.append(f"  largest    {gib(step.largest_bytes)}  {step.largest}; logits would be {gib(entry.logits).strip()}")
    lines += [f"  {name:<10} {gib(memory.peak)}" for name, memory in entry.programs.items()]
    most = max(entry.programs.values(), key=lambda memory: memory.peak)
    of = "" if most.usable is None else f" of {most.usable / GIB:.2f} that a device has"
    verdict = "fits" if entry.fits else f"does not fit: {advice(config)}"
    lines += [f"  peak       {gib(most.peak)}{of}: {verdict}", f"  work       {work(entry, mfu)}"]
    return "\n".join(lines)


def work(entry: SliceReport, mfu: float | None) -> str:
    """Of one update, and the time that it takes at a share of the peak, which nothing here has measured."""
    said = f"{entry.update_flops / 1e12:,.0f} TFLOP for {entry.update_tokens:,} tokens an update"
    if mfu is None or entry.peak_flops is None:
        return said
    seconds = entry.update_flops / (entry.peak_flops * mfu)
    speed = f"{seconds:.3g} s, {entry.update_tokens / seconds:,.0f} tokens/s"
    return f"{said}; if {mfu:.0%} of {entry.peak_flops / 1e12:,.0f} TFLOP/s: {speed}"


def advice(config: TrainConfig) -> str:
    """What would need less, the cheapest first."""
    ways = []
    if config.reference == "live" and config.loss.reference_reads.storable:
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
