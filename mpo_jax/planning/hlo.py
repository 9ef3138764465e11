"""What does a compiled program execute, and how often? Read from XLA's text of it."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

_SIZES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_SIZES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_MADE = re.compile(r"\s*(ROOT )?%?([\w.-]+) = ")
_OPENED = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_NO_KERNEL = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}
_SAME = {"copy", "bitcast", "convert", "copy-done"}  # what an integer passes through unchanged


@dataclasses.dataclass(frozen=True)
class Made:
    """An array on one device. `in_hbm`: whether it lies in the device's main memory, not in what is near its units (on a TPU
    memory space 1 and above)."""

    dtype: str
    shape: tuple[int, ...]
    in_hbm: bool

    @property
    def bytes(self) -> float:
        return _SIZES.get(self.dtype, 0) * math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction: what it makes, of what, and the rest of its line (`attributes`)."""

    name: str
    op: str
    made: tuple[Made, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def named(self, attribute: str) -> str | None:
        """The computation that an attribute names, as in `calls=%fused_computation.1`."""
        found = re.search(rf"\b{attribute}=%?([\w.-]+)", self.attributes)
        return found[1] if found else None

    @property
    def is_kernel(self) -> bool:
        """Whether it executes by itself; not so what only names arrays, and what only calls other instructions."""
        return self.op not in _NO_KERNEL


Computation = Mapping[str, Instruction]  # in the order of execution


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program of one of the `devices` of a slice: its computations by name, and the one that it begins with."""

    computations: Mapping[str, Computation]
    entry: str
    devices: int

    @functools.cached_property
    def times(self) -> dict[str, float]:
        """How often each computation is executed that is not part of a kernel. A loop whose number of passes is not in the text
        counts once, and of a condition's branches none does: what is added up is a lower bound."""
        found: dict[str, float] = {}
        self._count(self.entry, 1, found)
        return found

    def _count(self, name: str, times: float, found: dict[str, float]) -> None:
        found[name] = found.get(name, 0) + times
        for instruction in self.computations[name].values():
            if instruction.op == "while" and (body := instruction.named("body")):
                self._count(body, times * self.passes(instruction, self.computations[name]), found)
            elif instruction.op == "call" and (called := instruction.named("to_apply")):
                self._count(called, times, found)

    def executed(self) -> Iterator[tuple[Instruction, Computation, float]]:
        """Every kernel, the computation that it stands in, and how often it is executed."""
        for name, times in self.times.items():
            for instruction in self.computations[name].values():
                if instruction.is_kernel:
                    yield instruction, self.computations[name], times

    def passes(self, loop: Instruction, around: Computation) -> int:
        """How often the body of a `while` is executed: as the compiler notes it, or from a counter that goes from one constant to
        another in constant steps; 1 where neither is in the text."""
        if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(noted[1])
        condition, body = (self.computations[loop.named(which) or ""] for which in ("condition", "body"))
        compared = _root(condition)
        if compared.op != "compare" or "direction=LT" not in compared.attributes:
            return 1
        counter, end = condition.get(compared.operands[0]), _integer(condition, compared.operands[1])
        place = re.search(r"index=(\d+)", counter.attributes) if counter else None
        if place is None or end is None:
            return 1
        begin = _integer(around, around[loop.operands[0]].operands[int(place[1])])
        added = body.get(_root(body).operands[int(place[1])])
        step = _integer(body, added.operands[1]) if added and added.op == "add" else None
        return max(1, math.ceil((end - begin) / step)) if begin is not None and step else 1


def read(text: str) -> Compiled:
    """`jax.stages.Compiled.as_text()` -> what it says."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, inside = "", None
    for line in text.splitlines():
        if inside is None and (opened := _OPENED.match(line)):
            inside = computations.setdefault(opened[2], {})
            entry = opened[2] if opened[1] else entry
        elif line == "}":
            inside = None
        elif inside is not None and (made := _MADE.match(line)):
            inside[made[2]] = _instruction(made[2], line[made.end() :], made[1] is not None)
    assert entry, "a program has an entry"
    partitions = re.search(r"num_partitions=(\d+)", text[: text.find("\n")])
    return Compiled(computations, entry, int(partitions[1]) if partitions else 1)


def _instruction(name: str, line: str, root: bool) -> Instruction:
    end = _closed(line, 0) if line.startswith("(") else line.index(" ")
    op, _, _ = line[end:].strip().partition("(")
    begin = line.index("(", end)
    last = _closed(line, begin)
    made = tuple(
        Made(dtype, tuple(int(n) for n in shape.split(",") if n), not re.search(r"S\([1-9]\d*\)", layout))
        for dtype, shape, layout in _ARRAY.findall(line[:end])
    )
    if op in ("parameter", "constant"):  # the brackets hold a number, and no operands
        return Instruction(name, op, made, (), line[begin:], root)
    return Instruction(name, op, made, tuple(re.findall(r"%([\w.-]+)", line[begin:last])), line[last:], root)


def _closed(line: str, begin: int) -> int:
    """Behind the bracket that closes the one at `begin`."""
    depth = 0
    for i in range(begin, len(line)):
        depth += {"(": 1, ")": -1}.get(line[i], 0)
        if depth == 0:
            return i + 1
    return len(line)


def _root(computation: Computation) -> Instruction:
    return next(instruction for instruction in computation.values() if instruction.root)


def _integer(computation: Computation, name: str) -> int | None:
    instruction = computation.get(name)
    while instruction is not None and instruction.op in _SAME:
        instruction = computation.get(instruction.operands[0])
    if instruction is None or instruction.op != "constant":
        return None
    found = re.match(r"\((-?\d+)\)", instruction.attributes)
    return int(found[1]) if found else None
