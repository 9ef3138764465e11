"""What does the TPU compiler say of a program, on a machine without a TPU? How much memory a chip needs, and of how much.

`libtpu` holds the compiler of every generation and needs no chip to compile for one. Nothing is executed, so this tells memory
and never speed.
"""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from mpo_jax.errors import InputError

GIB = 2**30
# What a device of each kind leaves a program, as libtpu 0.0.51 says when it refuses one that needs more. A chip of v5e has 16 GB
# of HBM, of v5p 95, of v6e 32 (cloud.google.com/tpu/docs); chips of v4 and 7x are two devices to this compiler.
USABLE_GIB = {"TPU v4": 15.25, "TPU v5 lite": 15.75, "TPU v5": 95.73, "TPU v6 lite": 31.24, "TPU7x": 94.74}
# The slices that Cloud TPU lends of each generation, up to 256 chips.
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
    """Bytes of one device. Of a program that does not fit the compiler tells no more than `peak` and `usable`, of some that fit
    not the arrays and kernels."""

    fits: bool
    peak: int  # what it needs at once, its arguments included
    usable: int | None  # None where `USABLE_GIB` does not know the kind of device
    temporaries: int | None = None
    largest: str | None = None  # the largest array that an instruction makes, with its shape on one device
    largest_bytes: int | None = None
    kernels: int | None = None  # Pallas kernels in the program


def devices(topology: str, slices: int = 1) -> Sequence[Any]:
    """The devices of a slice such as "v5e:2x4", or of several. To be called before JAX computes anything: it keeps JAX itself on
    the CPU.

    Errors: no libtpu here, a name that it does not know.
    """
    jax.config.update("jax_platforms", "cpu")
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
            f"The TPU compiler is not here ({error}): install it with pip install -r requirements-tpu-plan.txt."
        ) from None


def compile_for(lowered: jax.stages.Lowered, device_kind: str) -> Memory:
    """Compiles a program that was lowered for a topology's devices. One that does not fit is an answer, not an error."""
    usable = usable_bytes(device_kind)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _too_big(str(error))
    found = compiled.memory_analysis()
    assert found is not None, "the TPU compiler reports it"
    memory = Memory(
        fits=True,
        # The compiler counts arguments that lie in the host's memory in; what it refuses for is the device's.
        peak=found.peak_memory_in_bytes - found.host_argument_size_in_bytes,
        usable=usable,
        temporaries=found.temp_size_in_bytes,
    )
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:  # libtpu 0.0.51 cannot write down what it made of some programs for v5p and v6e
        return memory
    assert text is not None, "the TPU compiler writes it"
    size, largest = _largest(text)
    kernels = text.count('custom_call_target="tpu_custom_call"')
    return dataclasses.replace(memory, largest=largest, largest_bytes=size, kernels=kernels)


def usable_bytes(device_kind: str) -> int | None:
    return round(USABLE_GIB[device_kind] * GIB) if device_kind in USABLE_GIB else None


def _too_big(message: str) -> Memory:
    """From "... temporaries (37.21G) exceeds available HBM (15.75G)", or, where that showed late, "Used 16.40G of 15.75G hbm",
    which a report with other sizes follows."""
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
