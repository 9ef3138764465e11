"""With which mesh does generation fit a slice, and how many answers at once? Arithmetic proposes, the compiler decides."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

from mpo_jax.devices.sharding import shards
from mpo_jax.errors import InputError
from mpo_jax.planning.generation import GenerationLayout, GenerationReport, Writing, compiled_generation, lay_out_generation
from mpo_jax.planning.tpu_compiler import GIB, devices, usable_bytes

CLOSE = 0.05  # a batch that fits and one that does not may be this far apart, relative to the former
Say = Callable[[str], None]


def plan_generation(writing: Writing, topology: str, say: Say) -> GenerationReport:
    """The first of `layouts` that fits, or else the last, with the largest batch for it. `say` prints a line of progress.

    Errors: those of `lay_out_generation`."""
    layout = report = None
    for layout in layouts(writing, topology):
        usable, mesh = usable_bytes(layout.kind), f"width={layout.mesh.shape['width']} tensor={layout.mesh.shape['tensor']}"
        if usable is not None and layout.least > usable:
            say(f"{topology} {mesh}: needs at least {layout.least / GIB:.2f} GiB of {usable / GIB:.2f}")
            report = None
            continue
        say(f"{topology} {mesh}: compiling, which takes a minute for a model with billions of weights")
        report = compiled_generation(layout)
        if report.fits:
            break
        say(f"  does not fit: the {list(report.programs)[-1]} needs {report.peak.peak / GIB:.2f} GiB")
    assert layout is not None, "or an error was raised"
    return with_largest(layout, report or compiled_generation(layout), say)


def layouts(writing: Writing, topology: str) -> Iterator[GenerationLayout]:
    """One for each number of devices that may hold a copy of the weights, the smallest first; the devices of a copy are along
    `tensor` as far as the model's dimensions allow, and the rest along `width`. Powers of two, where `writing` gives none."""
    powers = [2**i for i in range(len(devices(topology)).bit_length())]
    pairs = itertools.product([writing.width] if writing.width else powers, [writing.tensor] if writing.tensor else powers)
    found: set[int] = set()
    errors: list[InputError] = []
    for width, tensor in sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[0])):
        if width * tensor in found:
            continue
        try:
            layout = lay_out_generation(writing, topology, width, tensor)
        except InputError as error:
            errors.append(error)
            continue
        found.add(width * tensor)
        yield layout
    if not found:
        raise errors[0]


def with_largest(layout: GenerationLayout, report: GenerationReport, say: Say) -> GenerationReport:
    """`report`, which is of `layout`, with the largest batch that fits, to within `CLOSE`. Memory is a straight line in the
    number of rows, or nearly: each batch to try comes from the two before it, and all that is said of a batch was compiled."""
    usable = report.peak.usable
    if usable is None or not report.programs["loading"].fits:
        return report
    copies = shards(layout.mesh, "batch")
    points = [(0, report.weights), (report.rows, _needed(report))]
    largest, refused = (report, None) if report.fits else (None, report.rows)
    while True:
        fits = largest.rows if largest is not None else 0
        apart = max(copies, int(CLOSE * fits) // copies * copies)
        if refused is not None and refused - fits <= apart:
            return dataclasses.replace(report, largest=largest, refused=refused)
        (rows_a, peak_a), (rows_b, peak_b) = points[-2:]
        each = max(1.0, (peak_b - peak_a) / (rows_b - rows_a))
        rows = int(rows_b + (usable - peak_b) / each) // copies * copies
        rows = max(rows, fits + apart)
        rows = rows if refused is None else min(rows, refused - apart)
        say(f"{layout.topology}: compiling for a batch of {rows}")
        tried = compiled_generation(layout.of_rows(rows))
        points.append((rows, _needed(tried)))
        largest, refused = (tried, refused) if tried.fits else (largest, rows)


def _needed(report: GenerationReport) -> int:
    """The most that a program needs, whose memory grows with its rows."""
    return max(memory.peak for name, memory in report.programs.items() if name != "loading")
