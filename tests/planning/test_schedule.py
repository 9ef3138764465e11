"""A program waits for a collective only as long as no kernel covers it."""

import pytest

from mpo_jax.planning.cost import cost
from mpo_jax.planning.hlo import read
from mpo_jax.planning.peaks import Peaks
from mpo_jax.planning.schedule import times

# A product of two [8, 8] takes a second, and to gather [2, 8] from four devices another.
PEAKS = Peaks(flops=2 * 8**3, memory=1e9, link=3 * 2 * 8 * 4, between_slices=1.0)
ALL = "replica_groups={{0,1,2,3}}, dimensions={0}"
START = "%s = (f32[2,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%x), channel_id=1, " + ALL
DONE = "%g = f32[8,8]{1,0} all-gather-done(%s)"
OTHERS = """
%cut.1 (a: f32[2,8], b: f32[8,8]) -> f32[8,8] {
  %a = f32[2,8]{1,0} parameter(0)
  %b = f32[8,8]{1,0} parameter(1)
  %gather.1 = f32[8,8]{1,0} all-gather(%a), channel_id=3, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %dot.1 = f32[8,8]{1,0} dot(%b, %b), lhs_contracting_dims={1}
}

%cut.2 (c: f32[2,8], d: f32[8,8]) -> f32[8,8] {
  %c = f32[2,8]{1,0} parameter(0)
  %d = f32[8,8]{1,0} parameter(1)
  ROOT %gather.2 = f32[8,8]{1,0} all-gather(%c), channel_id=3, replica_groups={{0,1,2,3}}, dimensions={0}
}
"""


def product(name: str) -> str:
    return f"%{name} = f32[8,8]{{1,0}} dot(%w, %w), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}"


@pytest.mark.parametrize(
    ("lines", "awaited", "asynchronous", "synchronous"),
    [
        ([f"%g = f32[8,8]{{1,0}} all-gather(%x), channel_id=1, {ALL}", product("p")], 1, 0, 1),
        ([START, product("p"), DONE], 0, 1, 0),
        ([START, DONE, product("p")], 1, 1, 0),
        ([START, START.replace("%s ", "%t "), product("p"), DONE, DONE.replace("%s)", "%t)").replace("%g ", "%h ")], 1, 2, 0),
        (
            [f"%c.{i} = f32[8,8]{{1,0}} fusion(%x, %w), kind=kCustom, calls=%cut.{i}" for i in (1, 2)],
            0,
            1,
            0,
        ),
    ],
    ids=["alone", "covered", "not covered", "one after the other", "cut into parts"],
)
def test_what_is_awaited_is_what_no_kernel_covers(lines, awaited, asynchronous, synchronous):
    given = ["%x = f32[2,8]{1,0} parameter(0)", "%w = f32[8,8]{1,0} parameter(1)"]
    body = "\n".join(f"  {line}" for line in [*given, *lines])
    text = f"HloModule jit_f, num_partitions=4\n{OTHERS}\nENTRY %main.1 (x: f32[2,8]) -> f32[8,8] {{\n{body}\n}}\n"
    found = times(read(text), PEAKS, links=1)
    assert (found.kernels, found.awaited) == pytest.approx((1, awaited), abs=1e-4)
    assert (found.asynchronous, found.synchronous) == pytest.approx((asynchronous, synchronous))
    assert found.path == pytest.approx(1 + awaited, abs=1e-4)
    assert cost(read(text)).network == 3 * 64 * (asynchronous + synchronous)
