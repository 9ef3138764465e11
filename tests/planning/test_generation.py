"""What a plan of generation says is what the engine will hold, and its programs move no weight and no cache."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slices import FITS, needs_compiler
from spelled import Spelled, request

from mpo_jax import plan
from mpo_jax.devices.sharding import make_generation_mesh
from mpo_jax.generation import engine
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.engine import jitted
from mpo_jax.generation.programs import abstract_cache
from mpo_jax.generation.weights import placed
from mpo_jax.models.families.registry import build
from mpo_jax.planning import advice, generation, generation_search
from mpo_jax.planning.generation import Writing, lay_out_generation, lowered
from mpo_jax.planning.tpu_compiler import _BYTES, Memory
from mpo_jax.telemetry.memory import bytes_on

LLAMA_8B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "tie_word_embeddings": False, "hidden_act": "silu",
    "rope_scaling": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}  # fmt: skip
GEMMA_9B = {
    "model_type": "gemma2", "vocab_size": 256000, "hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 42,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    "query_pre_attn_scalar": 256, "sliding_window": 4096,
}  # fmt: skip
SMALL = {**LLAMA_8B, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
         "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16}  # fmt: skip
GREEDY, DRAWN = Decoding(), Decoding(temperature=0.7, top_p=0.9, max_new_tokens=32)
# (model, topology, width, tensor, how answers are drawn)
DECODED = {
    "greedy v5e": (LLAMA_8B, "v5e:2x4", 1, 2, GREEDY),
    "drawn v5e": (LLAMA_8B, "v5e:2x4", 1, 2, DRAWN),
    "greedy v6e": (LLAMA_8B, "v6e:2x4", 1, 2, GREEDY),
    "drawn v6e": (LLAMA_8B, "v6e:2x4", 1, 2, DRAWN),
    "width": ({**LLAMA_8B, "num_hidden_layers": 4}, "v5e:2x4", 2, 2, DRAWN),
    "gemma2": (GEMMA_9B, "v5e:2x4", 1, 4, DRAWN),
    "gemma2 width": ({**GEMMA_9B, "num_hidden_layers": 4}, "v6e:2x4", 2, 2, DRAWN),
}


def folder(tmp_path, raw) -> str:
    (tmp_path / "config.json").write_text(json.dumps(raw))
    return str(tmp_path)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A small model, and the devices of this machine in the place of any slice's."""
    monkeypatch.setattr(generation, "devices", lambda topology: jax.devices())
    monkeypatch.setattr(generation_search, "devices", lambda topology: jax.devices())
    return folder(tmp_path, SMALL)


def moved(hlo: str) -> tuple[list[tuple[int, str]], int]:
    """(bytes, instruction) of what the devices copy, transpose or gather, the largest first; and how many bytes they write back
    to HBM from where they compute. To read an array ahead, in the layout that it has, is no copy: it is read once either way."""
    found, back = [], 0
    for line in hlo.splitlines():
        made = re.match(
            r"\s*(?:ROOT )?%?[\w.-]+ = (.*?) (copy|transpose|all-gather|all-to-all|collective-permute)(-start)?\(", line
        )
        if made is None:
            continue
        arrays = re.findall(r"(\w+)\[([\d,]*)\](\{[^}]*\})", made[1])
        size = max(_BYTES[kind] * int(np.prod([int(n) for n in shape.split(",") if n])) for kind, shape, _ in arrays)
        to, *of = (layout for *_, layout in arrays)
        near = ["S(1)" in layout for layout in (to, *of[:1])]
        if made[2] == "copy" and made[3] and to.replace("S(1)", "") == of[0].replace("S(1)", "") and any(near):
            back += size if near == [False, True] else 0
        else:
            found.append((size, f"{made[2]} {made[1]}"))
    return sorted(found, reverse=True), back


def test_what_moves_is_read_from_the_compiled_text():
    far, near = "bf16[8,16]{1,0:T(8,128)(2,1)}", "bf16[8,16]{1,0:T(8,128)(2,1)S(1)}"
    ahead = f"  %copy-start.1 = ({near}, {far}, u32[]{{:S(2)}}) copy-start(%p.1)"
    back = f"  %copy-start.2 = ({far}, {near}, u32[]{{:S(2)}}) copy-start(%p.2)"
    turned = f"  %copy-start.3 = (bf16[8,16]{{0,1:T(8,128)(2,1)S(1)}}, {far}, u32[]{{:S(2)}}) copy-start(%p.3)"
    gathered = f"  ROOT %all-gather-start.4 = ({far}, bf16[32,16]{{1,0}}) all-gather-start(%p.4), dimensions={{0}}"
    assert moved("\n".join([ahead, back, f"  %fusion.5 = {far} fusion(%p.5), kind=kLoop"])) == ([], 256)
    moves, written = moved("\n".join([turned, gathered, "  %transpose.6 = s32[16]{0:T(128)} transpose(%p.6)"]))
    assert [size for size, _ in moves] == [1024, 256, 64] and written == 0


@pytest.mark.parametrize("name", DECODED)
@needs_compiler
def test_a_step_moves_no_weight_and_no_cache(tmp_path, name):
    raw, topology, width, tensor, decoding = DECODED[name]
    writing = Writing(folder(tmp_path, raw), batch_size=64, prompt_tokens=256, max_new_tokens=256)
    layout = lay_out_generation(writing, topology, width, tensor)
    compiled = lowered(layout, "decode", decoding).compile()
    layer = layout.params["layers"][0]
    matrices = [bytes_on(x) for x in jax.tree.leaves(layer) if x.ndim == 2]
    least = min(*matrices, bytes_on(layout.cache[0].k_BKUH))
    moves, back = moved(compiled.as_text())
    assert moves, "small things are moved, or the text is not read"
    assert moves[0][0] < least, moves[:5]
    if width == 1:  # with sums over `width` to wait for, the compiler reads small caches ahead, and writes them back whole
        assert back <= bytes_on(layout.cache) / 8
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= bytes_on(layout.cache), "updated in place"
    assert memory.temp_size_in_bytes < bytes_on(layer)


@needs_compiler
def test_a_prefill_writes_into_the_cache_that_it_is_given(tmp_path):
    writing = Writing(
        folder(tmp_path, {**LLAMA_8B, "num_hidden_layers": 4}), batch_size=16, prompt_tokens=256, max_new_tokens=256
    )
    layout = lay_out_generation(writing, "v5e:2x4", 1, 2)
    compiled = lowered(layout, "prefill").compile()
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= bytes_on(layout.cache)
    assert memory.temp_size_in_bytes < bytes_on(layout.params["layers"][0])
    assert moved(compiled.as_text())[0][0][0] <= max(bytes_on(x) for x in layout.params["layers"][0]["attention"].values())


@needs_compiler
def test_the_command_compiles_and_finds_the_largest_batch(tmp_path, capsys):
    raw = {**LLAMA_8B, "num_hidden_layers": 1, "vocab_size": 32768}
    given = ["--topology=v5e:1x1", "--prompt-tokens=8000", "--batch-size=512", "--json"]
    plan.main(["--generate", f"--model={folder(tmp_path, raw)}", *given])
    (line,) = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    assert not said["fits"] and said["prompt_slots"] == 8192 and said["largest"]["fits"] and said["rows"] == 512
    assert said["largest"]["rows"] < said["refused"] <= 1.06 * said["largest"]["rows"]
    usable, most = round(15.75 * 2**30), max(memory["peak"] for memory in said["largest"]["programs"].values())
    assert 0.9 * usable < most <= usable


@pytest.mark.parametrize(("width", "tensor"), [(1, 1), (1, 4), (2, 2), (4, 2)])
def test_weights_and_caches_are_counted_by_the_byte(here, monkeypatch, width, tensor):
    monkeypatch.setattr(generation, "compile_for", lambda lowered, kind: FITS)
    writing = Writing(here, batch_size=5, prompt_tokens=33, max_new_tokens=7)
    report = generation.compiled_generation(lay_out_generation(writing, "here", width, tensor))
    copies = 8 // (width * tensor)
    assert (report.rows, report.prompt_slots, report.new_slots) == (-(-5 // copies) * copies, 40, 32)
    assert report.mesh == {"data": copies, "width": width, "tensor": tensor}
    _, model, _ = build(here)
    mesh = make_generation_mesh(width=width, tensor=tensor, devices=jax.devices())
    params = placed(model, model.init(jax.random.key(0)), mesh, jnp.bfloat16, consume=True)
    on_first = [x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(params)]
    assert report.weights == sum(on_first)
    assert report.caches == 2 * 2 * 3 * (report.rows // copies) * (4 // tensor) * 72 * 16
    assert report.caches == bytes_on(abstract_cache(model, report.rows, 72, jnp.bfloat16, mesh))
    assert report.programs["loading"].peak == report.weights + 2 * 3 * 64 * 128 // (width * tensor)
    assert list(report.programs) == ["loading", "prefill", "decode"] and report.fits


def test_what_is_lowered_is_what_the_engine_calls(here, monkeypatch):
    """The same arguments, by shape, dtype and place."""
    layout = lay_out_generation(Writing(here, batch_size=16, prompt_tokens=32, max_new_tokens=32), "here", 2, 2)
    called = []

    def spied(*of):
        spy = lambda program: lambda *args: (called.append(jax.tree.map(described, args)), program(*args))[1]  # noqa: E731
        return tuple(map(spy, jitted(*of)))

    monkeypatch.setattr(engine, "jitted", spied)
    params = placed(layout.model, layout.model.init(jax.random.key(0)), layout.mesh, jnp.bfloat16, consume=True)
    stops = tuple(range(generation.STOPS))
    writer = engine.Engine(layout.model, params, layout.mesh, Spelled(stops), DRAWN, batch_size=16, known={})
    requests = [request(f"p{number}", np.full(32, 7)) for number in range(16)]
    assert len(list(writer.respond(requests))) == 16
    for args, name in zip(called, ("prefill", "decode"), strict=True):
        assert args == jax.tree.map(described, generation.arguments(layout, name, DRAWN))


def described(x) -> tuple:
    return x.shape, x.dtype, x.sharding.shard_shape(x.shape), str(x.sharding.memory_kind)


def pretending(monkeypatch, of_row, fixed, usable):
    """The compiler says that a prefill needs `fixed` bytes and `of_row` more for each row on a device. What is given back is the
    list of the meshes and rows that it was asked of."""
    asked = []

    def compiled_generation(layout):
        rows = layout.rows // layout.mesh.shape["data"]
        asked.append((layout.mesh.shape["width"], layout.mesh.shape["tensor"], layout.rows))
        size = layout.mesh.shape["width"] * layout.mesh.shape["tensor"]
        peak = fixed // size + of_row * rows + (7 * of_row if rows > 24 else 0)  # not quite a line
        programs = {
            "loading": Memory(True, fixed // size, usable),
            "prefill": Memory(peak <= usable, peak, usable),
        }
        return generation.GenerationReport(
            layout.topology, dict(layout.mesh.shape), layout.rows, 32, 32, fixed // size, 1, peak <= usable, programs
        )

    monkeypatch.setattr(generation_search, "compiled_generation", compiled_generation)
    return asked


@pytest.mark.parametrize("usable", [1_100, 2_000, 3_001, 50_000, 1_000_000])
@pytest.mark.parametrize("batch_size", [8, 64, 4000])
def test_the_largest_batch_lies_between_two_that_were_compiled(here, monkeypatch, usable, batch_size):
    asked = pretending(monkeypatch, 10, 1_000, usable)
    report = generation_search.plan_generation(Writing(here, batch_size=batch_size, width=1, tensor=1), "here", [].append)
    rows = [rows for *_, rows in asked]
    assert len(set(rows)) == len(rows) <= 9
    assert report.rows == batch_size and report.refused in rows
    if report.largest is not None:
        assert report.largest.fits and report.largest.rows in rows
        assert report.refused - report.largest.rows <= max(8, 0.05 * report.largest.rows)
        assert "fits (" in advice.describe_generation(report)
    else:
        assert report.refused == 8
        assert "no batch fits, not even one of 8" in advice.describe_generation(report)


def test_a_copy_of_the_weights_takes_as_few_devices_as_it_can(here, monkeypatch):
    """Along the heads first, of which there are four for keys and values, then along the width."""
    asked = pretending(monkeypatch, 10, 1_000, 300)
    report = generation_search.plan_generation(Writing(here, batch_size=16), "here", [].append)
    assert [pair[:2] for pair in asked[:4]] == [(1, 1), (1, 2), (1, 4), (2, 4)]
    assert report.fits and report.mesh == {"data": 1, "width": 2, "tensor": 4}
    meshes = [dict(layout.mesh.shape) for layout in generation_search.layouts(Writing(here, width=2), "here")]
    assert meshes == [{"data": 8 // (2 * tensor), "width": 2, "tensor": tensor} for tensor in (1, 2, 4)]


def test_arithmetic_leaves_meshes_out(here, monkeypatch):
    monkeypatch.setattr(generation_search, "usable_bytes", lambda kind: 1)
    said, asked = [], pretending(monkeypatch, 10, 1_000, 180)
    report = generation_search.plan_generation(Writing(here, batch_size=8), "here", said.append)
    assert asked[0][:2] == (2, 4) and report.mesh["width"] == 2, "only the last one is compiled"
    assert sum("needs at least" in line for line in said) == 4


def test_weights_that_cannot_be_loaded_end_it(here, monkeypatch):
    monkeypatch.setattr(generation, "usable_bytes", lambda kind: 1)
    report = generation_search.plan_generation(Writing(here, width=1, tensor=4), "here", [].append)
    assert not report.fits and list(report.programs) == ["loading"] and report.largest is None
    ways = "does not fit: try more devices for each copy of the weights (--tensor, --width) or a larger slice"
    assert ways in advice.describe_generation(report)
    large = dataclasses.replace(report, mesh={"data": 1, "width": 2, "tensor": 4}, programs={"loading": FITS})
    assert "does not fit: try a smaller --batch-size or a larger slice" in advice.describe_generation(large)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--tensor=3"], "width=1 times tensor=3 devices hold one copy of the weights, but that does not divide"),
        (["--tensor=8"], "its axis 'kv_heads' has 4 entries"),
        (["--batch-size=0"], "--batch-size=0 must be at least 1."),
        (["--max-new-tokens=-1"], "--max-new-tokens=-1 must be at least 1."),
        (["--dtype=int8"], "--dtype='int8' is not known: write one of 'float32', 'bfloat16'."),
        (["--search"], "--search belongs to a training run: leave it or --generate out."),
        (["--mfu=0.4"], "--mfu belongs to a training run"),
        (["--tokens=5"], "--tokens belongs to a training run"),
        (["--slices=2"], "--slices belongs to a training run"),
        (["--config=quickstart"], "both name a model: write one of them."),
        (["--config.remat=full"], "'--config.remat=full' has no effect with --generate"),
    ],
)
def test_what_cannot_be_planned_is_a_sentence(here, capsys, args, sentence):
    with pytest.raises(SystemExit):
        plan.main(["--generate", f"--model={here}", "--topology=here", *args])
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: ") and sentence in said[-1]


def test_options_of_generation_alone_are_a_sentence(capsys):
    for option in ("--model=m", "--batch-size=8", "--dtype=float32"):
        with pytest.raises(SystemExit):
            plan.main(["--config=quickstart", "--topology=v5e:1x1", option])
        said = capsys.readouterr().err
        assert f"{option.partition('=')[0]} belongs to --generate" in said and ": add that, or leave it out." in said
    with pytest.raises(SystemExit):
        plan.main(["--generate", "--topology=v5e:1x1"])
    assert "No config was given" in capsys.readouterr().err


def test_a_configs_model_is_planned(here, capsys, monkeypatch):
    monkeypatch.setattr(generation, "compile_for", lambda lowered, kind: FITS)
    plan.main(["--generate", "--config=quickstart", f"--config.model={here}", "--topologies=a,b", "--json"])
    a, b = map(json.loads, capsys.readouterr().out.splitlines())
    assert (a["topology"], b["topology"], a["mesh"]["tensor"], a["rows"]) == ("a", "b", 1, 64)
