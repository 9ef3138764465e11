"""How much can a TPU chip do at most? Its published peaks."""

import dataclasses

from mpo_jax.telemetry.throughput import PEAK


@dataclasses.dataclass(frozen=True)
class Peaks:
    """Of one device, a second. `link`: bytes each way over one of the links to a neighbour; `between_slices`: bytes to other
    slices."""

    flops: float  # in bfloat16
    memory: float
    link: float
    between_slices: float


# cloud.google.com/tpu/docs, the page of each version: the bandwidth of a chip's HBM; of its interconnect, there both ways over
# all links (four on v5e and v6e, six on v5p); and of the data-centre network, a chip's share of what the page gives for a pod.
# The page of v4 has neither network: 50 GB/s a link by Jouppi et al. (arXiv:2304.01433), and between slices no more than v5p.
PEAKS = {
    "TPU v4": Peaks(PEAK["TPU v4"] / 2, 1200e9 / 2, 50e9, 50e9 / 8 / 2),  # a chip is two devices to the compiler
    "TPU v5 lite": Peaks(PEAK["TPU v5 lite"], 819e9, 400e9 / 2 / 4, 6.4e12 / 8 / 256),
    "TPU v5": Peaks(PEAK["TPU v5"], 2765e9, 1200e9 / 2 / 6, 50e9 / 8),
    "TPU v6 lite": Peaks(PEAK["TPU v6 lite"], 1638e9, 800e9 / 2 / 4, 25.6e12 / 8 / 256),
}
WHOLE_RING = {"TPU v5 lite": 16, "TPU v6 lite": 16}  # chips along an axis whose ends are joined; elsewhere any multiple of four


def links(device_kind: str, topology: str) -> int:
    """The number of neighbours of a chip in a corner of a slice such as "v5e:2x4", which has the fewest: every collective waits
    for it. Ends that may be joined count as joined."""
    sizes = [int(n) for n in topology.partition(":")[2].split("x")]
    ring = WHOLE_RING.get(device_kind, 4)
    return sum(0 if n == 1 else 2 if n % ring == 0 else 1 for n in sizes)
