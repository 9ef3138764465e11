"""What does a compiled program wait for, if each resource works at its peak? The order of its kernels tells."""

import dataclasses

from mpo_jax.planning.bound import at_peaks
from mpo_jax.planning.cost import kernel_cost, part_of, parts, sent
from mpo_jax.planning.hlo import Compiled
from mpo_jax.planning.peaks import Peaks


@dataclasses.dataclass
class Times:
    """Seconds of one execution, in the order of the program. Kernels run one after the other, and so do collectives."""

    kernels: float = 0.0  # products, or memory where that takes longer
    awaited: float = 0.0  # collectives while no kernel runs
    asynchronous: float = 0.0  # collectives that are started before they are awaited
    synchronous: float = 0.0

    @property
    def path(self) -> float:
        """From the first kernel to the last."""
        return self.kernels + self.awaited

    def add(self, other: "Times", times: float) -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + times * getattr(other, field.name))


def times(program: Compiled, peaks: Peaks, links: int, name: str | None = None) -> Times:
    """Of a computation with its loops, by default of the whole program. A collective that is cut into parts is started with its
    first part and awaited with its last."""
    around = program.computations[name or program.entry]
    last = {part_of(part): i for i, x in enumerate(around.values()) for part, of in parts(program, x, around) if of is not around}
    # When each network is free, and when what was started will be there.
    found, free, ends = Times(), {True: 0.0, False: 0.0}, {}

    def await_until(end: float) -> None:
        found.awaited += max(0.0, end - found.path)

    for i, instruction in enumerate(around.values()):
        if instruction.op == "while" and (body := instruction.named("body")):
            found.add(times(program, peaks, links, body), program.passes(instruction, around))
            continue
        if instruction.op.endswith("-done"):
            await_until(ends.pop(instruction.operands[0], 0.0))
            continue
        for part, of in parts(program, instruction, around):
            key = instruction.name if of is around else part_of(part)
            alone = of is around and part.op != "send" and not part.op.endswith("-start")
            if key not in ends:
                takes, far = at_peaks(sent(part, of, program.devices), peaks, links).seconds, part.op == "send"
                free[far] = ends[key] = max(found.path, free[far]) + takes
                found.synchronous += takes * alone
                found.asynchronous += takes * (not alone)
            if alone:
                await_until(ends.pop(key))
        if instruction.is_kernel:
            found.kernels += at_peaks(kernel_cost(program, instruction, around), peaks, links).seconds
        for key in [key for key, at in last.items() if at == i]:
            await_until(ends.pop(key))
    return found
