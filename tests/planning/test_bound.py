"""A bound is that of the slowest resource, at the published peaks."""

import pytest

from mpo_jax.planning.bound import at_peaks, bound
from mpo_jax.planning.cost import Cost
from mpo_jax.planning.peaks import PEAKS, Peaks, links
from mpo_jax.planning.tpu_compiler import USABLE_GIB

PEAK = Peaks(flops=100.0, memory=10.0, link=2.0, between_slices=1.0)


@pytest.mark.parametrize(
    ("cost", "seconds", "resource"),
    [
        (Cost(flops=300, memory=10, network=1), 3, "products"),
        (Cost(flops=300, memory=40), 4, "memory"),
        (Cost(flops=300, network=20), 5, "network"),
        (Cost(flops=300, between_slices=6), 6, "between slices"),
    ],
)
def test_the_slowest_resource_makes_the_bound(cost, seconds, resource):
    found = at_peaks(cost, PEAK, links=2)
    assert (found.seconds, found.resource) == (seconds, resource)
    assert at_peaks(Cost(network=20), PEAK, links=0).seconds == 0, "a device that is alone sends nothing"


def test_a_corner_of_a_slice_has_the_fewest_links():
    found = {name: links("TPU v5 lite", name) for name in ("v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:8x16", "v5e:16x16")}
    assert list(found.values()) == [0, 2, 2, 3, 4]
    assert [links("TPU v5", name) for name in ("v5p:2x2x1", "v5p:2x2x2", "v5p:2x2x4", "v5p:4x4x4")] == [2, 3, 4, 6]


def test_peaks_are_a_chips_or_half_of_one():
    assert PEAKS.keys() < USABLE_GIB.keys() and bound(Cost(flops=1), "TPU7x", "tpu7x:2x2x2") is None
    found = bound(Cost(flops=197e12, memory=819e9, network=100e9, between_slices=3.125e9), "TPU v5 lite", "v5e:2x4")
    assert (found.products, found.memory, found.network, found.between_slices) == pytest.approx((1, 1, 1, 1))
