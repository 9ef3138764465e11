"""How is a plan shown? Its figures in a table, and settings that would need less memory."""

import dataclasses
import math

from mpo_jax.planning.editing import ReadingReport
from mpo_jax.planning.generation import GenerationReport
from mpo_jax.planning.price import PUBLISHED, price
from mpo_jax.planning.slice_fit import SliceReport
from mpo_jax.planning.slice_search import SearchResult, flags
from mpo_jax.planning.tpu_compiler import GIB, Memory
from mpo_jax.training.config import AUTO, TrainConfig


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be said of a run beside its memory: the time of an update at a share `mfu` of the peak FLOP/s; the chip-hours
    for a number of `rows`, and the `money` for them, given for one."""

    mfu: float | None = None
    rows: int | None = None
    money: float | None = None


def recommend(found: SearchResult, config: TrainConfig, asked: Asked) -> str:
    """The smallest slice that fits, and the settings to write for it."""
    if found.plan is None or found.settings is None:
        reference = "cached" if config.loss.reference_reads.storable else config.reference
        # What the search has tried is not advised.
        least = dataclasses.replace(config, reference=reference, remat="full", logits="recompute", kept_gb=None)
        return f"{found.generation}: does not fit {', '.join(found.tried)}: {advice(least)}"
    lines = [f"{found.generation}: the smallest slice that fits is {found.plan.topology}, with", f"  {flags(found.settings)}"]
    return "\n".join([*lines, describe(found.plan, config, asked)])


def describe(entry: SliceReport, config: TrainConfig, asked: Asked = Asked()) -> str:
    step, gib = entry.programs["step"], lambda n: f"{n / GIB:6.2f} GiB"
    mesh = " ".join(f"{axis}={n}" for axis, n in entry.mesh.items())
    where = entry.topology if entry.slices == 1 else f"{entry.slices} x {entry.topology}"
    lines = [
        f"{where}: {math.prod(entry.mesh.values())} devices, {mesh}; {entry.rows} packed rows of {entry.tokens} tokens",
        f"  trainable  {gib(entry.masters)}  float32 masters" + (" of the adapter" if config.lora.rank else ""),
        f"  moments    {gib(entry.moments)}",
        *([f"  frozen     {gib(entry.frozen)}  the other weights, in {config.compute_dtype}"] if entry.frozen else []),
        f"  reference  {gib(entry.reference)}" + ("  shares the frozen weights" if entry.shared else ""),
    ]
    if AUTO in (config.remat, config.logits):
        lines.append(f"  kept       {entry.kept}")
    if step.temporaries is not None:
        lines.append(f"  temporary  {gib(step.temporaries)}  activations, gradients, compute copies of the weights")
    if step.largest_bytes is not None:
        lines.append(f"  largest    {gib(step.largest_bytes)}  {step.largest}; logits would be {gib(entry.logits).strip()}")
    lines += [f"  {name:<10} {gib(memory.peak)}" for name, memory in entry.programs.items()]
    most = max(entry.programs.values(), key=lambda memory: memory.peak)
    lines += [_peak(most, "fits" if entry.fits else f"does not fit: {advice(config)}"), f"  work       {work(entry, asked.mfu)}"]
    return "\n".join(lines + _times(entry, config, asked))


def _times(entry: SliceReport, config: TrainConfig, asked: Asked) -> list[str]:
    """What an update and a run take at best, and at published shares of the peak."""
    if entry.bound is None or entry.peak_flops is None:
        return []
    needs = ", ".join(f"{name.replace('_', ' ')} {s:.3g} s" for name, s in dataclasses.asdict(entry.bound).items() if s)
    fast, slow = (f"{entry.update_flops / entry.peak_flops / share:.3g}" for share in PUBLISHED)
    lines = [
        f"  bound      an update takes {entry.bound.seconds:.3g} s at best, for its {entry.bound.resource} ({needs})",
        f"  range      {fast} to {slow} s at {PUBLISHED[0]:.0%} to {PUBLISHED[1]:.0%} of the peak, as published for other runs",
    ]
    run = price(entry, config, asked.rows) if asked.rows is not None else None
    if run is None:
        return lines
    best, (low, high) = run.hours(run.best), map(run.hours, run.published)
    shares = ", ".join(f"{name} {s / sum(run.published[0].values()):.1%}" for name, s in run.published[0].items())
    lines.append(
        f"  run        {run.updates:,} updates: {best:.3g} chip-hours at best, {low:.3g} to {high:.3g} in that range ({shares})"
    )
    if asked.money is not None:
        best, low, high = (f"{hours * asked.money:,.2f}" for hours in (best, low, high))
        lines.append(f"  price      {best} at best, {low} to {high} in that range, at {asked.money:g} a chip-hour")
    return lines


def describe_generation(entry: GenerationReport) -> str:
    """The memory of generation on one slice, and the largest batch for it."""
    gib, mesh = lambda n: f"{n / GIB:6.2f} GiB", " ".join(f"{axis}={n}" for axis, n in entry.mesh.items())
    lines = [
        f"{entry.topology}: {math.prod(entry.mesh.values())} devices, {mesh}; {entry.rows} answers at once of up to "
        f"{entry.new_slots} tokens, to prompts of {entry.prompt_slots}",
        f"  weights    {gib(entry.weights)}",
        f"  caches     {gib(entry.caches)}",
    ]
    for name, memory in entry.programs.items():
        temporary = "" if memory.temporaries is None else f"  {gib(memory.temporaries).strip()} of it temporary"
        lines.append(f"  {name:<10} {gib(memory.peak)}{temporary}")
    ways = ["a smaller --batch-size"] if entry.programs["loading"].fits else []
    ways += ["more devices for each copy of the weights (--tensor, --width)"] if entry.mesh["data"] > 1 else []
    lines.append(_peak(entry.peak, "fits" if entry.fits else f"does not fit: try {' or '.join([*ways, 'a larger slice'])}"))
    if entry.token is not None:
        milliseconds, resource = 1e3 * entry.token.seconds, entry.token.resource
        lines.append(f"  bound      one token of every answer takes {milliseconds:.3g} ms at best, for its {resource}")
    if entry.largest is not None:
        batch, most = entry.largest.rows, entry.largest.peak.peak
        lines.append(f"  largest    a batch of {batch:,} fits ({gib(most).strip()}); one of {entry.refused:,} does not")
    elif entry.refused is not None:
        lines.append(f"  largest    no batch fits, not even one of {entry.refused:,}")
    return "\n".join(lines)


def describe_reading(entry: ReadingReport) -> str:
    """The memory of an edit's forward pass on one slice."""
    gib, mesh = lambda n: f"{n / GIB:6.2f} GiB", " ".join(f"{axis}={n}" for axis, n in entry.mesh.items())
    verdict = "fits" if entry.fits else "does not fit: try fewer prompts, --tensor, or a larger slice"
    return "\n".join(
        [
            f"{entry.topology}: {math.prod(entry.mesh.values())} devices, {mesh}; {entry.prompts:,} prompts in {entry.tokens:,} "
            "positions",
            f"  one layer  {gib(entry.layer)}",
            f"  states     {gib(entry.states)}",
            f"  program    {gib(entry.program.peak)}, of one layer and one batch",
            _peak(dataclasses.replace(entry.program, peak=entry.peak), verdict),
        ]
    )


def _peak(most: Memory, verdict: str) -> str:
    of = "" if most.usable is None else f" of {most.usable / GIB:.2f} GiB usable"
    return f"  peak       {most.peak / GIB:6.2f} GiB{of}: {verdict}"


def work(entry: SliceReport, mfu: float | None) -> str:
    """The work of one update, and the time that it would take at a given share of the peak (nothing is measured here)."""
    said = f"{entry.update_flops / 1e12:,.0f} TFLOP for {entry.update_tokens:,} tokens per update"
    if mfu is None or entry.peak_flops is None:
        return said
    seconds = entry.update_flops / (entry.peak_flops * mfu)
    speed = f"{seconds:.3g} s, {entry.update_tokens / seconds:,.0f} tokens/s"
    return f"{said}; at {mfu:.0%} of {entry.peak_flops / 1e12:,.0f} TFLOP/s: {speed}"


def advice(config: TrainConfig) -> str:
    """Settings that would need less memory, the cheapest first."""
    ways = []
    if config.reference == "live" and config.loss.reference_reads.storable:
        ways.append("--config.reference=cached")
    if config.optim.moments_dtype == "float32":
        ways.append("--config.optim.moments_dtype=bfloat16")
    if config.optim.kind == "adamw":
        ways.append("--config.optim.kind=adafactor")
    if config.remat != "full":
        ways.append("--config.remat=full")
    if config.logits != "recompute":
        ways.append("--config.logits=recompute")
    ways += ["a lower --config.data.max_length", "a larger slice"]
    return f"try {', '.join(ways[:-1])} or {ways[-1]}"
