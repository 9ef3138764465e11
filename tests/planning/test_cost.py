"""What a compiled program does is added up with its loops, and no more than it must do."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import slices

from mpo_jax.models.families.registry import build
from mpo_jax.planning import programs
from mpo_jax.planning.cost import Cost, collectives, cost, groups
from mpo_jax.planning.hlo import read
from mpo_jax.telemetry.flops import Counts, attention_flops, forward_flops, update_work


def program(*lines: str, others: str = "", partitions: int = 8):
    body = "\n".join(f"  {line}" for line in lines)
    head = f"HloModule jit_f, is_scheduled=true, num_partitions={partitions}\n\n{others}\n"
    return read(f"{head}ENTRY %main.1 (x: f32[1]) -> f32[1] {{\n{body}\n}}\n")


def test_a_loops_products_count_as_often_as_they_are_made():
    """XLA's own count has the body once, which is why it is not used."""

    def f(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=7)[0]

    compiled = jax.jit(f).lower(jnp.ones((64, 128)), jnp.ones((128, 128))).compile()
    assert cost(read(compiled.as_text())).flops == 7 * 2 * 64 * 128 * 128
    assert compiled.cost_analysis()["flops"] < 2 * 2 * 64 * 128 * 128


@pytest.mark.parametrize("remat", ["full", "none"])
def test_an_updates_products_are_those_of_its_equations(model_dir, remat):
    """Within five per cent: model FLOPs, the forward passes that the backward pass repeats, and the logits once more."""
    run = slices.config(model_dir, reference="cached", remat=remat, compute_dtype="float32")
    layout = programs.lay_out_on(jax.devices()[:1], run, "cpu")
    with jax.set_mesh(layout.mesh):
        text = next(programs.programs(layout)).lowered.compile().as_text()
    c, packed = build(model_dir)[1].config, layout.host.policy
    positions, scored = packed.tokens_ST.size, packed.answer_at_SA.size
    logits = 2 * scored * c.hidden_size * c.vocab_size
    again = forward_flops(c, Counts(positions, 0, ())) - 2 * positions * c.layers * c.hidden_size * c.ffn  # not `down`
    expected = update_work(c, layout.host, layout.state.trainable).flops + logits + (again if remat == "full" else 0)
    attention = attention_flops(c, layout.host, layout.state.trainable)
    assert attention < 0.1 * expected, "its blocks are whole, and the products of a query with later keys no work of a model"
    assert cost(read(text)).flops == pytest.approx(expected, rel=0.05)


def test_a_convolution_has_no_products_with_padding():
    """Four rows against a window of four that slides over seven places, of which it always sees those in the row alone."""
    whole = "%y = f32[2,4,8]{2,1,0} convolution(%x, %w), window={size=1}, dim_labels=b0f_0io->b0f"
    padded = "%y = f32[2,4,8]{2,1,0} convolution(%x, %w), window={size=4 pad=3_3 rhs_reversal=1}, dim_labels=b0f_0io->b0f"
    x = "%x = f32[2,4,16]{2,1,0} parameter(0)"
    assert cost(program(x, "%w = f32[1,16,8]{2,1,0} parameter(1)", f"ROOT {whole}")).flops == 2 * 2 * 4 * 16 * 8
    sees = 4 * 4 - 3 - 2 - 1  # of 4 places and 4 entries of the window, those that are not left of the row
    of_padding = cost(program(x, "%w = f32[4,16,8]{2,1,0} parameter(1)", f"ROOT {padded}")).flops
    assert of_padding == 2 * 2 * sees * 16 * 8


def test_a_loop_without_a_note_is_counted_by_its_counter():
    """A TPU's compiler notes no number of passes."""
    others = """
%body.1 (p: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %p = (s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}) parameter(0)
  %two = s32[]{:T(128)} constant(2)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %next = s32[]{:T(128)} add(%i, %two)
  %x = f32[8,8]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %y = f32[8,8]{1,0:T(8,128)} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %made = (s32[], f32[8,8]) tuple(%next, %y)
}

%condition.1 (q: (s32[], f32[8,8])) -> pred[] {
  %end = s32[]{:T(128)} constant(END)
  %q = (s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %less = pred[]{:T(512)} compare(%j, %end), direction=LT
}
"""
    lines = (
        "%zero = s32[]{:T(128)} constant(0)",
        "%begin = s32[]{:T(128)} copy(%zero)",
        "%x.1 = f32[8,8]{1,0:T(8,128)} parameter(0)",
        "%given = (s32[], f32[8,8]) tuple(%begin, %x.1)",
        "%loop = (s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}) while(%given), condition=%condition.1, body=%body.1",
        "ROOT %out = f32[8,8]{1,0:T(8,128)} get-tuple-element(%loop), index=1",
    )
    for end, passes in (("8", 4), ("9", 5)):
        assert cost(program(*lines, others=others.replace("END", end))).flops == passes * 2 * 8**3
    unknown = others.replace("constant(END)", "parameter(1)")
    assert cost(program(*lines, others=unknown)).flops == 2 * 8**3, "a number of passes that is not there is one"


FUSED = """
%taken (a: f32[16,8], b: s32[]) -> f32[1,8] {
  %a = f32[16,8]{1,0} parameter(0)
  %b = s32[] parameter(1)
  ROOT %slice = f32[1,8]{1,0} dynamic-slice(%a, %b, %b), dynamic_slice_sizes={1,8}
}

%put (c: f32[16,8], d: f32[1,8], e: s32[]) -> f32[16,8] {
  %c = f32[16,8]{1,0} parameter(0)
  %d = f32[1,8]{1,0} parameter(1)
  %e = s32[] parameter(2)
  ROOT %update = f32[16,8]{1,0} dynamic-update-slice(%c, %d, %e, %e)
}

%both (f: f32[2,8,8], g: f32[1,8], h: s32[]) -> (f32[16,8], f32[1,8]) {
  %f = f32[2,8,8]{2,1,0} parameter(0)
  %g = f32[1,8]{1,0} parameter(1)
  %h = s32[] parameter(2)
  %flat = f32[16,8]{1,0} bitcast(%f)
  %replaced = f32[16,8]{1,0} dynamic-update-slice(%flat, %g, %h, %h)
  %one = f32[1,8]{1,0} dynamic-slice(%flat, %h, %h), dynamic_slice_sizes={1,8}
  ROOT %two = (f32[16,8]{1,0}, f32[1,8]{1,0}) tuple(%replaced, %one)
}
"""


def test_memory_is_what_is_read_and_written_and_slices_alone():
    given = ("%x = f32[16,8]{1,0} parameter(0)", "%i = s32[] parameter(1)", "%row = f32[1,8]{1,0} parameter(2)")
    near = "%near = f32[16,8]{1,0:T(8,128)S(1)} parameter(3)"
    deep = "%deep = f32[2,8,8]{2,1,0} parameter(4)"
    kernels = {
        "%y = f32[16,8]{1,0} negate(%x)": 2 * 16 * 8 * 4,
        "%y = f32[16,8]{1,0:T(8,128)S(1)} negate(%x)": 16 * 8 * 4,
        "%y = f32[16,8]{1,0} negate(%near)": 16 * 8 * 4,
        "%y = f32[1,8]{1,0} fusion(%x, %i), kind=kLoop, calls=%taken": 2 * 8 * 4 + 4,
        "%y = f32[16,8]{1,0} fusion(%x, %row, %i), kind=kLoop, calls=%put": 2 * 8 * 4 + 4,
        "%y = (f32[16,8]{1,0}, f32[1,8]{1,0}) fusion(%deep, %row, %i), kind=kLoop, calls=%both": 4 * 8 * 4 + 4,
        '%y = f32[16,8]{1,0} custom-call(), custom_call_target="AllocateBuffer"': 0,
        "%y = (f32[16,8]{1,0:S(1)}, f32[16,8]{1,0}, u32[]{:S(2)}) copy-start(%x)": 16 * 8 * 4,
        "%y = f32[16,8]{1,0} bitcast(%x)": 0,
    }
    for kernel, moved in kernels.items():
        assert cost(program(*given, near, deep, f"ROOT {kernel}", others=FUSED)).memory == moved, kernel


def test_the_network_carries_what_no_algorithm_can_do_without():
    x, four = "%x = f32[16,8]{1,0} parameter(0)", "channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}"
    size = 16 * 8 * 4
    found = {
        f"%y = f32[64,8]{{1,0}} all-gather(%x), {four}": 3 * size,
        f"%y = f32[4,8]{{1,0}} reduce-scatter(%x), {four}": 3 / 4 * size,
        f"%y = f32[16,8]{{1,0}} all-reduce(%x), {four}": 2 * 3 / 4 * size,
        f"%y = (f32[16,8]{{1,0}}, f32[64,8]{{1,0}}) all-gather-start(%x), {four}": 3 * size,
        "%y = f32[16,8]{1,0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}": size,
        "%y = f32[16,8]{1,0} all-reduce(%x), replica_groups={}": 2 * 7 / 8 * size,
    }
    for collective, moved in found.items():
        assert cost(program(x, f"ROOT {collective}")).network == moved, collective
    away = cost(program(x, "%t = token[] after-all()", "ROOT %y = (f32[16,8]{1,0}, u32[], token[]) send(%x, %t), channel_id=2"))
    assert (away.network, away.between_slices) == (0, size)


def test_a_collective_that_was_cut_into_parts_is_one():
    """All parts have its channel; two that stand alone are two, whatever their channels."""
    others = """
%part.NUMBER (a: f32[2,8]) -> f32[16,8] {
  %a = f32[2,8]{1,0} parameter(0)
  ROOT %gather.NUMBER = f32[16,8]{1,0} all-gather(%a), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}
}
"""
    x = "%x = f32[2,8]{1,0} parameter(0)"
    fused = [f"%y.{i} = f32[16,8]{{1,0}} fusion(%x), kind=kCustom, calls=%part.{i}" for i in (1, 2)]
    cut = program(x, *fused, others=others.replace("NUMBER", "1") + others.replace("NUMBER", "2"))
    alone = [f"%y.{i} = f32[16,8]{{1,0}} all-gather(%x), channel_id=7, replica_groups=[1,8]<=[8]" for i in (1, 2)]
    for found, count in ((cut, 1), (program(x, *alone), 2)):
        assert len(collectives(found, found.computations["main.1"])) == count
        assert cost(found).network == count * 7 * 2 * 8 * 4


@pytest.mark.parametrize(
    ("written", "joined"),
    [
        ("replica_groups={{0,2},{1,3}}", [[0, 2], [1, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
        ("channel_id=1", [[0, 1, 2, 3]]),
    ],
)
def test_groups_are_read_in_all_forms(written, joined):
    assert groups(written, 4) == joined


def test_costs_add_up():
    assert Cost(1, 2, 3, 4) * 2 + Cost(1) == Cost(3, 4, 6, 8)
    assert dataclasses.asdict(Cost()) == dict.fromkeys(("flops", "memory", "network", "between_slices"), 0.0)
