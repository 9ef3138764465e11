"""How long must a program take at least, and what makes it?"""

import dataclasses

from mpo_jax.planning.cost import Cost
from mpo_jax.planning.peaks import PEAKS, Peaks, links


@dataclasses.dataclass(frozen=True)
class Bound:
    """Seconds that each resource of a device needs at its peak. They may all be busy at once, so the longest is the bound."""

    products: float
    memory: float
    network: float
    between_slices: float

    @property
    def seconds(self) -> float:
        return max(dataclasses.astuple(self))

    @property
    def resource(self) -> str:
        """What makes the bound."""
        return max(dataclasses.asdict(self).items(), key=lambda of: of[1])[0].replace("_", " ")


def bound(cost: Cost, device_kind: str, topology: str) -> Bound | None:
    """Of a program with this cost on a slice such as "v5e:2x4"; None where the peaks of the device are not known."""
    return at_peaks(cost, PEAKS[device_kind], links(device_kind, topology)) if device_kind in PEAKS else None


def at_peaks(cost: Cost, peaks: Peaks, links: int) -> Bound:
    """`links`: how many neighbours a device sends to at once; 0 for a device that is alone."""
    network = cost.network / (links * peaks.link) if links else 0.0
    return Bound(cost.flops / peaks.flops, cost.memory / peaks.memory, network, cost.between_slices / peaks.between_slices)
