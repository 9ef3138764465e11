"""How much must a compiled program do? Its products, and its bytes to and from memory and between devices, added up."""

import dataclasses
import math
import re

import numpy as np

from mpo_jax.planning.hlo import Compiled, Computation, Instruction, Made


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one device does in a program. Adds up over programs."""

    flops: float = 0.0  # of matrix products, a multiply-add being two
    memory: float = 0.0  # bytes that kernels read from the device's main memory and write to it
    network: float = 0.0  # bytes that it must send to other devices of its slice
    between_slices: float = 0.0  # bytes that it must send to devices of other slices

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(x + y for x, y in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def __mul__(self, times: float) -> "Cost":
        return Cost(*(times * x for x in dataclasses.astuple(self)))


def cost(program: Compiled) -> Cost:
    """The least that each device does in this program, by its text:

    * products: `dot` and `convolution`. Kernels that are not XLA's (attention on a TPU) count nothing.
    * memory: what a kernel makes, once, and what it reads, once: of an array that it only slices or gathers, the slices.
    * network: what no algorithm can do without, by `sent`.
    """
    return sum((once(program, name) * times for name, times in program.times.items()), Cost())


def once(program: Compiled, name: str) -> Cost:
    """The cost of one execution of a computation, without that of the loops in it."""
    around = program.computations[name]
    kernels = (kernel_cost(program, instruction, around) for instruction in around.values() if instruction.is_kernel)
    return sum((*kernels, *(sent(*found, program.devices) for found in collectives(program, around))), Cost())


def kernel_cost(program: Compiled, kernel: Instruction, around: Computation) -> Cost:
    """The products and the memory of one kernel."""
    return Cost(flops(program, kernel, around), _memory(program, kernel, around))


def flops(program: Compiled, instruction: Instruction, around: Computation) -> float:
    """Of an instruction and of what is fused into it."""
    if instruction.op == "dot":
        left = around[instruction.operands[0]].made[0]
        contracted = _numbers(r"lhs_contracting_dims={([\d,]*)}", instruction.attributes)
        return 2 * math.prod(instruction.made[0].shape) * math.prod(left.shape[i] for i in contracted)
    if instruction.op == "convolution":
        return _convolution(instruction, *(around[name].made[0] for name in instruction.operands))
    inside = program.computations.get(instruction.named("calls") or "", {})
    return sum(flops(program, fused, inside) for fused in inside.values())


def _convolution(instruction: Instruction, data: Made, kernel: Made) -> float:
    """A TPU's compiler writes all products as convolutions. Positions of the window in padding and between the entries of a
    spread-out factor do not count."""
    names = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    assert names is not None, instruction
    window = re.search(r"window={([^}]*)}", instruction.attributes)
    fields = dict(part.split("=") for part in window[1].split()) if window else {}
    places = sorted(name for name in names[1] if name.isdigit())
    count = len(places)
    strides, spread, dilated = (_by_place(fields.get(name), count) for name in ("stride", "lhs_dilate", "rhs_dilate"))
    pads = [int(pad.split("_")[0]) for pad in fields["pad"].split("x")] if "pad" in fields else [0] * count
    pairs = 1
    for i, name in enumerate(places):
        size, wide, out = (
            made.shape[labels.index(name)]
            for made, labels in ((data, names[1]), (kernel, names[2]), (instruction.made[0], names[3]))
        )
        at = np.arange(out)[:, None] * strides[i] + np.arange(wide) * dilated[i] - pads[i]
        pairs *= int(((at >= 0) & (at % spread[i] == 0) & (at // spread[i] < size)).sum())
    batches = math.prod(_numbers(r"batch_group_count=(\d+)", instruction.attributes))
    return 2 * pairs * data.shape[names[1].index("b")] // batches * math.prod(kernel.shape[names[2].index(x)] for x in "io")


def collectives(program: Compiled, around: Computation) -> list[tuple[Instruction, Computation]]:
    """Each collective of a computation with the computation that it stands in: a kernel of its own, or a part of some. Some
    are cut into parts, which run beside products in several kernels; they have one channel, and are one collective."""
    found: dict[str, tuple[Instruction, Computation]] = {}
    for instruction in around.values():
        for part, of in parts(program, instruction, around):
            found.setdefault(part_of(part) if of is not around else part.name, (part, of))
    return list(found.values())


def parts(program: Compiled, instruction: Instruction, around: Computation) -> list[tuple[Instruction, Computation]]:
    """The collectives, or parts of them, that an instruction executes."""
    if instruction.op.removesuffix("-start") in SENT:
        return [(instruction, around)]
    inside = program.computations.get(instruction.named("calls") or "", {})
    return [found for fused in inside.values() for found in parts(program, fused, inside)]


def part_of(part: Instruction) -> str:
    """What the parts of one collective have in common."""
    channel = re.search(r"channel_id=(\d+)", part.attributes)
    return f"{part.op} {channel[1] if channel else part.name}"


# What a device of a group of n must send, for each byte that it brings along (n - 1 of n for a sum of which it keeps one n-th).
SENT = {
    "all-gather": lambda n: n - 1,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
    "send": lambda n: 1.0,  # to another slice: collectives stay within one
}


def sent(collective: Instruction, around: Computation, devices: int) -> Cost:
    """The bytes that each device of a collective's groups sends at least, of the `devices` of a slice."""
    name = collective.op.removesuffix("-start")
    brought = sum(x.bytes for operand in collective.operands for x in around[operand].made)
    moved = brought * SENT[name](max(map(len, groups(collective.attributes, devices))))
    return Cost(between_slices=moved) if name == "send" else Cost(network=moved)


def groups(attributes: str, devices: int) -> list[list[int]]:
    """The devices that a collective joins, in each of the forms that XLA writes; all of them where it names none."""
    if pairs := re.search(r"source_target_pairs={{(.*?)}}", attributes):
        return [[int(device) for device in pair.split(",")] for pair in pairs[1].split("},{")]
    if listed := re.search(r"replica_groups={{(.*?)}}", attributes):
        return [[int(device) for device in group.split(",")] for group in listed[1].split("},{")]
    if counted := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        order = np.arange(devices).reshape([int(n) for n in counted[3].split(",")])
        order = order.transpose([int(n) for n in counted[4].split(",")]) if counted[4] else order
        return order.reshape(int(counted[1]), int(counted[2])).tolist()
    if meshed := re.search(r"replica_groups=mesh\[(.*?)\] {(.*?)}", attributes):
        sizes = {name: int(n) for name, n in (axis.split("=") for axis in meshed[1].split(","))}
        along = [list(sizes).index(name) for name in meshed[2].split(",")]
        others = [i for i in range(len(sizes)) if i not in along]
        order = np.arange(devices).reshape(list(sizes.values())).transpose([*others, *along])
        return order.reshape(-1, math.prod(order.shape[len(others) :])).tolist()
    return [list(range(devices))]


# Beginnings of the names of calls that move nothing: they name memory, or a collective whose bytes its other parts have.
_NOTHING = ("AllocateBuffer", "ConcatBitcast", "Assume", "AsyncCollective")


def _memory(program: Compiled, instruction: Instruction, around: Computation) -> float:
    """Bytes read and written. What is started and awaited counts where it starts."""
    if instruction.op.endswith("-done") or any(f'custom_call_target="{name}' in instruction.attributes for name in _NOTHING):
        return 0.0
    operands = ((i, around[name]) for i, name in enumerate(instruction.operands) if name in around)
    return _written(program, instruction, around) + sum(
        _read(program, instruction, around, i, operand.made[0].bytes)
        for i, operand in operands
        if len(operand.made) == 1 and operand.made[0].in_hbm
    )


def _written(program: Compiled, kernel: Instruction, around: Computation) -> float:
    if kernel.op == "send":
        return 0.0
    made, at = kernel.made, (kernel,)
    if kernel.op.endswith("-start"):  # beside what it makes, it names its operand
        made = made[:1] if kernel.op == "copy-start" else made[1:2]
    if inside := program.computations.get(kernel.named("calls") or ""):
        around, root = inside, next(x for x in inside.values() if x.root)
        at = tuple(inside[name] for name in root.operands) if root.op == "tuple" else (root,)
    replaced = [_replaced(program, x, around) for x in at] if len(at) == len(made) else [None] * len(made)
    return sum(x.bytes if new is None else new for x, new in zip(made, replaced, strict=True) if x.in_hbm)


def _replaced(program: Compiled, instruction: Instruction, around: Computation) -> float | None:
    """The bytes that are replaced in an array, where the rest of it stays."""
    if inside := program.computations.get(instruction.named("calls") or ""):
        return _replaced(program, next(x for x in inside.values() if x.root), inside)
    if instruction.op == "bitcast":
        return _replaced(program, around[instruction.operands[0]], around)
    return around[instruction.operands[1]].made[0].bytes if instruction.op == "dynamic-update-slice" else None


def _read(program: Compiled, reader: Instruction, around: Computation, number: int, size: float) -> float:
    """What is read of the operand of this number and size in bytes: all of it, or the slices that are taken of it."""
    if inside := program.computations.get(reader.named("calls") or ""):
        [of] = [x for x in inside.values() if x.op == "parameter" and x.attributes.startswith(f"({number})")]
        return size if of.root else _read_by_all(program, of, inside, size)
    if reader.op == "bitcast" and not reader.root:
        return _read_by_all(program, reader, around, size)
    if number == 0 and reader.op in ("dynamic-slice", "slice", "gather"):
        return min(size, reader.made[0].bytes)
    return 0.0 if number == 0 and reader.op == "dynamic-update-slice" else size


def _read_by_all(program: Compiled, of: Instruction, around: Computation, size: float) -> float:
    """What the instructions around it read of an array, which stays near them once it is there."""
    readers = [(x, i) for x in around.values() for i, operand in enumerate(x.operands) if operand == of.name]
    return min(size, sum(_read(program, x, around, i, size) for x, i in readers))


def _by_place(text: str | None, count: int) -> list[int]:
    return [int(n) for n in text.split("x")] if text else [1] * count


def _numbers(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    return [int(n) for n in found[1].split(",") if n] if found else []
