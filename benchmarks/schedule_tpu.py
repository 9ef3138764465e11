"""What would a training step wait for on a TPU slice? Needs libtpu, no TPU: the order of the compiled kernels tells.

    python benchmarks/schedule_tpu.py --topology=v5e:2x4 [--options=NAME=VALUE,...] --config=CONFIG [--config.NAME=VALUE ...]

`--options` are the TPU compiler's, as in `xla_tpu_enable_async_collective_fusion=false`; on a TPU VM they would be written as
`LIBTPU_INIT_ARGS="--NAME=VALUE ..."`. Layers are a loop, so a config.json with four of them shows the schedule of any number, in
minutes. Times are those of the chip's published peaks, and nothing is measured.
"""

import argparse

import jax

from mpo_jax.planning.bound import at_peaks
from mpo_jax.planning.cost import cost, once
from mpo_jax.planning.hlo import read
from mpo_jax.planning.peaks import PEAKS, links
from mpo_jax.planning.programs import lay_out, programs
from mpo_jax.planning.schedule import times
from mpo_jax.planning.tpu_compiler import GIB, compiled_text
from mpo_jax.training.config import parse

SHOWN = 0.01  # the least share of the products that a loop has to be shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", required=True)
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--options", default="")
    args, rest = parser.parse_known_args()
    options = dict(option.split("=") for option in args.options.split(",") if option)
    flags = {name: {"true": True, "false": False}.get(value, value) for name, value in options.items()}
    layout = lay_out(parse(rest), args.topology, slices=args.slices)
    with jax.sharding.use_abstract_mesh(layout.mesh.abstract_mesh):
        compiled, text = compiled_text(next(programs(layout)).lowered, flags)
    program, kind = read(text), layout.devices[0].device_kind
    peaks, neighbours = PEAKS[kind], links(kind, args.topology)
    whole, memory = at_peaks(cost(program), peaks, neighbours), compiled.memory_analysis()
    assert memory is not None
    print(f"memory {memory.peak_memory_in_bytes / GIB:.2f} GiB; bound {whole.seconds:.4f} s: {whole}")
    print(f"{'ms':>6}{'kernels':>12}{'awaited':>12}{'async':>12}{'sync':>12}{'GFLOP':>12}{'passes':>10}")
    for name, passes in program.times.items():
        found, mine = times(program, peaks, neighbours, name), once(program, name) * passes
        if name == program.entry or found.path * passes > SHOWN * whole.products:
            seconds = (found.kernels, found.awaited, found.asynchronous, found.synchronous)
            figures = "".join(f"{1e3 * passes * s:>12.2f}" for s in seconds)
            print(f"{'':>6}{figures}{mine.flops / 1e9:>12,.0f}{passes:>10.0f}  {name}")


if __name__ == "__main__":
    main()
