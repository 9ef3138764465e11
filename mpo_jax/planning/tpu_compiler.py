"""How much memory of a TPU does a program need, and how much is there? The TPU compiler tells, on a machine without a TPU.

`libtpu` contains the compiler for every generation and needs no chip to compile for one. Nothing is executed, so this gives
memory and what the program does, and never speed.
"""

import dataclasses
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from mpo_jax.errors import InputError
from mpo_jax.planning.cost import Cost, cost
from mpo_jax.planning.hlo import read

GIB = 2**30
# The memory that a program may use on a device of each kind, as libtpu 0.0.51 says when it refuses a larger one. A chip has 16 GB
# of HBM on v5e, 95 on v5p, 32 on v6e (cloud.google.com/tpu/docs); to this compiler a chip of v4 or 7x is two devices.
USABLE_GIB = {"TPU v4": 15.25, "TPU v5 lite": 15.75, "TPU v5": 95.73, "TPU v6 lite": 31.24, "TPU7x": 94.74}
# The slices that Cloud TPU offers of each generation, up to 256 chips.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SLICES = {"v5e": FLAT, "v6e": FLAT, "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")}
EXAMPLES = "v5e:2x4, v5e:4x4, v5p:2x2x4, v6e:8x8"
# The compiler would otherwise ask the metadata server of a TPU VM, and refuse a second process on this machine.
ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",  # any: the topology's name decides
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device, and what the program does. For one that does not fit, the compiler gives only `peak` and `usable`."""

    fits: bool
    peak: int  # what it needs at once, its arguments included
    usable: int | None  # None where `USABLE_GIB` does not know the kind of device
    temporaries: int | None = None
    largest: str | None = None  # the largest array that an instruction makes, with its shape on one device
    largest_bytes: int | None = None
    kernels: int | None = None  # Pallas kernels in the program
    cost: Cost | None = None


def devices(topology: str, slices: int = 1) -> Sequence[Any]:
    """The devices of a slice such as "v5e:2x4", or of several. To be called before JAX computes anything: it keeps JAX itself on
    the CPU, and keeps no programs, since those of a TPU cannot be read again here.

    Errors: libtpu is not installed, or does not know the name.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        many = {"num_slices": slices} if slices > 1 else {}
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, **many).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise InputError(
            f"The topology '{topology}' is not known to the TPU compiler ({reason}): write a slice such as {EXAMPLES}."
        ) from None
    except RuntimeError as error:
        raise InputError(
            f"The TPU compiler is not installed ({error}): run `pip install -r requirements-tpu-plan.txt`."
        ) from None


def compile_for(lowered: jax.stages.Lowered, device_kind: str) -> Memory:
    """Compiles a program that was lowered for a topology's devices. A program that does not fit is a result, not an error."""
    usable = usable_bytes(device_kind)
    try:
        compiled, text = compiled_text(lowered)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _too_big(str(error))
    found = compiled.memory_analysis()
    assert found is not None, "the TPU compiler reports it"
    size, largest = _largest(text)
    return Memory(
        fits=True,
        # The compiler's count includes arguments in host memory, but it refuses programs by device memory only.
        peak=found.peak_memory_in_bytes - found.host_argument_size_in_bytes,
        usable=usable,
        temporaries=found.temp_size_in_bytes,
        largest=largest,
        largest_bytes=size,
        kernels=text.count('custom_call_target="tpu_custom_call"'),
        cost=cost(read(text)),
    )


def compiled_text(lowered: jax.stages.Lowered, options: Mapping[str, Any] | None = None) -> tuple[jax.stages.Compiled, str]:
    """Compiles a program, with options of the compiler, and gives its text too. The compiler itself writes the text, since libtpu
    0.0.51 cannot hand all programs for v5p and v6e to JAX (`as_text`)."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = lowered.compile({**(options or {}), "xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        # Small programs, of which it makes constants, lie beside the program itself.
        written = Path(folder).glob("*after_optimizations.txt")
        return compiled, max(written, key=lambda path: path.stat().st_size).read_text(encoding="utf-8")


def usable_bytes(device_kind: str) -> int | None:
    return round(USABLE_GIB[device_kind] * GIB) if device_kind in USABLE_GIB else None


def _too_big(message: str) -> Memory:
    """From "... temporaries (37.21G) exceeds available HBM (15.75G)", or, where the compiler noticed late, from "Used 16.40G of
    15.75G hbm", after which a report with other sizes follows."""
    size = r"([\d.]+[KMGT])"
    early, late = rf"\({size}\) exceeds available HBM \({size}\)", rf"Used {size} of {size} hbm"
    found = re.search(early, message) or re.search(late, message)
    assert found is not None, message
    return Memory(fits=False, peak=_size(found[1]), usable=_size(found[2]))


def _size(text: str) -> int:
    return round(float(text[:-1]) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[text[-1]])


def _largest(hlo: str) -> tuple[int, str]:
    """(bytes, shape) of the largest array that an instruction of the compiled program makes."""
    found = (0, "")
    for line in hlo.splitlines():
        made = re.match(r"\s*(?:ROOT )?%?[\w.-]+ = (\w+)\[([\d,]+)\]\S* ([\w-]+)\(", line)
        if made and made[1] in _BYTES and made[3] not in ("parameter", "get-tuple-element", "bitcast"):
            size = _BYTES[made[1]] * math.prod(map(int, made[2].split(",")))
            found = max(found, (size, f"{made[1]}[{made[2]}] of {made[3]}"))
    return found
