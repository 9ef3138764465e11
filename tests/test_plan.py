"""What a plan compiles is what a run computes, and what it says is what the compiler said."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from mpo_jax import config as configs
from mpo_jax import fit, plan, programs, search, tpu_compiler
from mpo_jax.errors import InputError
from mpo_jax.losses import Dpo, Mpo, Simpo
from mpo_jax.models.families import build
from mpo_jax.optim import OptimConfig
from mpo_jax.prepare import DataConfig
from mpo_jax.sharding import MeshConfig, abstract_on_mesh, batch_to_mesh, make_mesh, shards

RAW = {
    "model_type": "llama", "vocab_size": 65536, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "tie_word_embeddings": False, "hidden_act": "silu",
}  # fmt: skip
LENGTH = 256
MESH = {"data": 1, "fsdp": 4, "tensor": 1}
FITS = tpu_compiler.Memory(fits=True, peak=1, usable=2**40, temporaries=1, largest="f32[1] of copy", largest_bytes=4, kernels=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model's configuration, without its weights."""
    out = tmp_path_factory.mktemp("model")
    (out / "config.json").write_text(json.dumps(RAW))
    return out


def config(folder, **changes) -> configs.TrainConfig:
    return configs.TrainConfig(model=str(folder), data=DataConfig("no file", max_length=LENGTH), output="nowhere", **changes)


def config_file(folder, tmp_path):
    path = tmp_path / "run.py"
    path.write_text(
        "from mpo_jax.config import DataConfig, TrainConfig\n"
        f"def get_config(v=None): return TrainConfig(model={str(folder)!r}, data=DataConfig('no file'), output='nowhere')"
    )
    return path


def needs_compiler():
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed: pip install -r requirements-tpu-plan.txt")


@pytest.fixture(scope="module")
def cached(folder):
    needs_compiler()
    return planned(config(folder, reference="cached", optim=OptimConfig(moments_dtype="bfloat16")), "v5e:2x2")


def planned(run, topology, **options) -> fit.Plan:
    return fit.compiled(programs.lay_out(run, topology, **options))


def parameters(model) -> int:
    return sum(x.size for x in jax.tree.leaves(model.abstract()))


def test_the_state_is_counted_by_the_bytes(folder, cached):
    """Norm scales are on every device, all else is cut into four."""
    _, model, _ = build(folder)
    matrices = [x.size for x in jax.tree.leaves(model.abstract()) if x.size > 2 * 2 * 256]
    whole = parameters(model) - sum(matrices)
    assert cached.masters == 4 * (sum(matrices) // 4 + whole)
    assert cached.moments == pytest.approx(cached.masters, abs=64), "twice 2 bytes, and two counters"
    assert cached.reference == 0
    step = cached.programs["step"]
    assert cached.fits
    assert step.peak >= cached.masters + cached.moments + step.largest_bytes
    assert "of 15.75 that a device has: fits" in plan.describe(cached, config(folder))


def test_the_compiled_step_has_tpu_kernels_and_no_logits(cached):
    """Forward, and forward once more and backward, of one layer in the scan."""
    step = cached.programs["step"]
    assert step.kernels >= 2
    assert step.largest_bytes < cached.logits / 2


def test_a_live_reference_is_held_in_its_dtype(folder, monkeypatch):
    needs_compiler()
    monkeypatch.setattr(fit, "compile_for", lambda lowered, kind: FITS)
    live = planned(config(folder), "v5e:2x2")
    assert live.programs["step"] == FITS and 2 * live.reference == live.masters


def test_the_command_prints_a_line_of_json_a_slice(folder, tmp_path, capsys, monkeypatch):
    needs_compiler()
    monkeypatch.setattr(fit, "compile_for", lambda lowered, kind: FITS)
    path = config_file(folder, tmp_path)
    plan.main([f"--config={path}", "--topologies=v5e:1x1,v5e:2x2", "--tokens=128", "--config.reference=cached", "--json"])
    one, four = map(json.loads, capsys.readouterr().out.splitlines())
    assert (one["topology"], four["topology"], four["mesh"]["fsdp"]) == ("v5e:1x1", "v5e:2x2", 4)
    assert (one["update_tokens"], 4 * one["peak_flops"]) == (8 * 4 * 128, four["peak_flops"])
    assert one["programs"]["step"]["fits"] and one["rows"] * one["tokens"] >= 8 * 4 * 128
    assert one["fits"] and list(one["programs"]) == ["step", "evaluation", "scoring", "export"]
    assert one["logits"] == 4 * four["logits"] and four["reference"] == 0


@pytest.mark.parametrize("loss", [Mpo(), Mpo(retain_pooling="mean_padded"), Simpo(), Dpo()], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("reference", ["live", "cached"])
def test_the_abstract_batch_is_like_the_one_that_a_run_makes(folder, loss, reference):
    run = config(folder, loss=loss, reference=reference, microbatches=2)
    _, model, _ = build(folder)
    mesh = make_mesh(MeshConfig())
    host = programs.fullest(run, model, LENGTH, shards(mesh, "batch")).batch_at(0)
    abstract = batch_to_mesh(host, mesh, abstract_on_mesh)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
    real = batch_to_mesh(zeros, mesh)
    for x, y in zip(jax.tree.leaves(abstract), jax.tree.leaves(real), strict=True):
        assert (x.shape, x.dtype, x.sharding) == (y.shape, y.dtype, y.sharding)
    S, T = abstract.policy.tokens_ST.shape[1:]
    sequences = sum(2 * run.batch_size // 2 for side in ("source", "target") if loss.policy_reads.want(side))
    assert sequences * LENGTH <= S * T and S % 8 == 0


def test_what_does_not_fit_is_an_answer():
    memory = tpu_compiler.Memory(fits=False, peak=round(37.21 * 2**30), usable=round(15.75 * 2**30))
    message = "RESOURCE_EXHAUSTED: E1000: the total memory required for HLO temporaries (37.21G) exceeds available HBM (15.75G)."
    assert tpu_compiler._too_big(message) == memory
    late = "Ran out of memory in memory space hbm. Used 37.21G of 15.75G hbm. Exceeded hbm capacity by 21.46G. (4.65G) (6.90G)"
    assert tpu_compiler._too_big(late) == memory
    entry = fit.Plan("v5e:2x2", 1, MESH, 32, 2048, 1, 1, 0, 1, 65536, 1e15, 8e14, False, {"step": memory})
    said = plan.describe(entry, config("folder"))
    assert "37.21 GiB of 15.75 that a device has: does not fit: try --config.reference=cached, " in said


def test_the_compiler_itself_refuses_what_does_not_fit():
    needs_compiler()
    mesh = Mesh(np.asarray(tpu_compiler.devices("v5e:2x2")), ("x",), axis_types=(AxisType.Auto,))
    x = jax.ShapeDtypeStruct((4, 2**30, 8), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("x")))
    memory = tpu_compiler.compile_for(jax.jit(jnp.sin).lower(x), "TPU v5 lite")
    assert not memory.fits and memory.peak > memory.usable == round(15.75 * 2**30)


def test_a_program_that_cannot_be_written_down_has_its_memory():
    needs_compiler()
    x = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=SingleDeviceSharding(tpu_compiler.devices("v5e:1x1")[0]))
    lowered: Any = Unwritten(jax.jit(jnp.sin).lower(x))
    memory = tpu_compiler.compile_for(lowered, "TPU v5 lite")
    assert memory.fits and memory.peak > 0 and memory.largest is None


class Unwritten:
    """A lowered program whose compiled text the compiler cannot make."""

    def __init__(self, lowered):
        self._lowered = lowered

    def compile(self):
        self.memory_analysis = self._lowered.compile().memory_analysis
        return self

    def as_text(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")


def test_the_largest_array_is_not_an_argument():
    hlo = "\n".join(
        [
            "  %p.1 = f32[9999,9999]{1,0:T(8,128)} parameter(0)",
            "  %fusion.2 = bf16[8,16]{1,0:T(8,128)(2,1)} fusion(%p.1), kind=kLoop",
            "  ROOT %all-gather.3 = (f32[4,4]{1,0}) all-gather(%fusion.2)",
            "  %copy.4 = f32[8,16]{1,0} copy(%fusion.2)",
        ]
    )
    assert tpu_compiler._largest(hlo) == (512, "f32[8,16] of copy")


@pytest.mark.parametrize("name", ["v9:2x2", "v5e:3x3", "nothing"])
def test_an_unknown_topology_is_a_sentence(folder, name):
    needs_compiler()
    with pytest.raises(InputError, match=rf"^The topology '{name}' is not known .*: write a slice such as v5e:2x4.*\.$"):
        planned(config(folder), name)


def test_a_missing_compiler_is_a_sentence(folder, monkeypatch):
    def get_topology_desc(**_):
        raise RuntimeError("JAX TPU support not installed")

    monkeypatch.setattr(topologies, "get_topology_desc", get_topology_desc)
    with pytest.raises(InputError, match=r"^The TPU compiler is not here .*: install it with pip install -r requirements"):
        planned(config(folder), "v5e:2x4")


def test_a_mesh_or_a_length_that_cannot_be_is_a_sentence(folder):
    needs_compiler()
    with pytest.raises(InputError, match=r"does not divide the 4 devices"):
        planned(config(folder, mesh=MeshConfig(fsdp=3)), "v5e:2x2")
    with pytest.raises(InputError, match=r"'kv_heads' has 2 entries"):
        planned(config(folder, mesh=MeshConfig(tensor=4)), "v5e:2x2")
    with pytest.raises(InputError, match=r"^--tokens=1 .* write 2 or more"):
        planned(config(folder), "v5e:2x2", tokens=1)


def saying(monkeypatch, *peaks) -> list[int]:
    """The compiler says that one program after the other needs this, of 2 GiB. What is given back is what was asked of it."""
    asked = []

    def compile_for(lowered, kind):
        asked.append(lowered)
        peak = peaks[min(len(asked), len(peaks)) - 1]
        return dataclasses.replace(FITS, peak=peak, usable=2**31, fits=peak <= 2**31)

    monkeypatch.setattr(fit, "compile_for", compile_for)
    return asked


def test_two_programs_need_what_the_hungrier_one_does(folder, monkeypatch):
    """Moments wait on the host: the gradient's program does not have them, and a reference stays while the update's runs."""
    needs_compiler()
    asked = saying(monkeypatch, 5, 7, 0)
    entry = planned(config(folder, optim=OptimConfig(offload=True)), "v5e:2x2")
    assert len(asked) == 4 and entry.moments < 64, "two counters"
    assert entry.programs["step"].peak == 7 + entry.reference
    assert not fit.beside(dataclasses.replace(FITS, usable=10), 10).fits


@pytest.mark.parametrize("held_out", [0.0, 0.1])
def test_what_lies_beside_each_program_is_counted(folder, monkeypatch, held_out):
    """Where a program itself takes nothing, what is said of it is what the devices hold meanwhile."""
    needs_compiler()
    asked, counter = saying(monkeypatch, 0), 4
    run = config(folder)
    run.data.eval_fraction = held_out
    live = planned(run, "v5e:2x2")
    table = 4 * RAW["vocab_size"] * RAW["hidden_size"] // 4  # the embedding is the largest tensor, of which a device has a fourth
    assert len(asked) == 3 + (held_out > 0), "the gaps, and the metrics of the rows that are held out"
    assert {name: memory.peak for name, memory in live.programs.items()} == {
        "step": 0,
        "evaluation": live.moments + live.reference,
        "export": live.masters + live.moments + live.reference + counter - table,
    }
    cached = planned(config(folder, reference="cached"), "v5e:2x2")
    assert {name: memory.peak for name, memory in cached.programs.items()} == {
        "step": 0,
        "evaluation": cached.moments,
        "scoring": 0,
        "export": cached.masters + cached.moments + counter - table,
    }


def test_nothing_is_compiled_after_what_does_not_fit(folder, monkeypatch):
    needs_compiler()
    asked = saying(monkeypatch, 2**32)
    assert list(planned(config(folder), "v5e:2x2").programs) == ["step"] and len(asked) == 1
    asked = saying(monkeypatch, 0, 2**31)
    entry = planned(config(folder), "v5e:2x2")
    assert list(entry.programs) == ["step", "evaluation"] and len(asked) == 2
    assert not entry.fits, "with the moments and the reference beside it"
    assert "of 2.00 that a device has: does not fit" in plan.describe(entry, config(folder))


def test_a_run_compiles_what_it_will_execute(folder, monkeypatch):
    """No reference to score or to hold for a method without one, and no export where there will be none."""
    needs_compiler()
    saying(monkeypatch, 0)
    export = configs.ExportConfig(enabled=False)
    assert list(planned(config(folder, loss=Simpo(), export=export), "v5e:2x2").programs) == ["step", "evaluation"]
    assert "scoring" not in planned(config(folder, loss=Simpo(), reference="cached"), "v5e:2x2").programs


def test_the_other_programs_are_compiled_too(folder, cached):
    assert list(cached.programs) == ["step", "evaluation", "scoring", "export"]
    evaluation, scoring, export = list(cached.programs.values())[1:]
    copy = cached.masters // 2
    assert evaluation.kernels >= 1 and evaluation.largest_bytes < cached.logits / 2
    assert evaluation.peak > cached.masters + cached.moments + copy
    assert scoring.kernels >= 1 and copy < scoring.peak < evaluation.peak
    assert export.peak > cached.masters + cached.moments
    said = plan.describe(cached, config(folder))
    assert all(f"\n  {name:<10} " in said for name in cached.programs)


def test_microbatches_make_every_program_of_rows_smaller(folder, cached):
    parts = planned(config(folder, reference="cached", microbatches=4), "v5e:2x2").programs
    for name in ("evaluation", "scoring"):
        assert parts[name].peak < cached.programs[name].peak


def test_moments_on_the_host_are_compiled_for(folder, monkeypatch):
    needs_compiler()
    monkeypatch.setattr(fit, "programs", programs._step)  # the others are the same as without
    entry = planned(config(folder, reference="cached", optim=OptimConfig(offload=True)), "v5e:2x2")
    assert entry.fits and entry.programs["step"].peak >= 3 * entry.masters, "both moments come for the update"


def test_the_work_of_an_update_at_a_share_of_the_peak():
    entry = fit.Plan("v5e:2x2", 1, MESH, 32, 2048, 1, 1, 0, 1, 65536, 788e12, 788e12, True, {"step": FITS})
    assert plan.work(entry, None) == "788 TFLOP for 65,536 tokens an update"
    assert plan.work(entry, 0.5) == "788 TFLOP for 65,536 tokens an update; if 50% of 788 TFLOP/s: 2 s, 32,768 tokens/s"
    assert plan.work(dataclasses.replace(entry, peak_flops=None), 0.5) == plan.work(entry, None)


def test_what_needs_less_than_its_bound_has_not_been_seen(folder, cached):
    run = config(folder, reference="cached", optim=OptimConfig(moments_dtype="bfloat16"))
    whatever, least = fit.least_bytes(programs.lay_out(run, "v5e:2x2"))
    assert cached.masters + cached.moments < whatever < least < cached.programs["step"].peak
    assert least - whatever == RAW["num_hidden_layers"] * cached.rows * cached.tokens // 4 * RAW["hidden_size"] * 2


GIB_16 = tpu_compiler.Memory(fits=False, peak=16 * 2**30, usable=round(15.75 * 2**30))


def answers(folder, monkeypatch, fits, topologies, **changes):
    """What a search says, where the compiler says of a layout what `fits` does, and which layouts were compiled for it."""
    needs_compiler()
    compiled, said = [], []

    def compile_it(laid):
        compiled.append((laid.topology, search.settings(laid.config)))
        memory = FITS if fits(laid) else GIB_16
        found = {"step": memory}
        return fit.Plan(laid.topology, laid.slices, dict(laid.mesh.shape), 1, 1, 1, 1, 0, 1, 1, 1.0, None, memory.fits, found)

    monkeypatch.setattr(search, "compiled", compile_it)
    found = list(search.search(config(folder, **changes), topologies, None, 1, said.append))
    return found, compiled, said


def test_a_search_ends_at_the_first_layout_that_fits(folder, monkeypatch):
    cached_on_four = lambda laid: laid.topology == "v5e:2x2" and laid.config.reference == "cached"  # noqa: E731
    found, compiled, said = answers(folder, monkeypatch, cached_on_four, ["v5e:2x4", "v5e:2x2", "v5e:1x1"])
    (answer,) = found
    assert answer.plan is not None and answer.settings is not None
    assert (answer.plan.topology, answer.tried) == ("v5e:2x2", ("v5e:1x1", "v5e:2x2"))
    assert (answer.settings["reference"], answer.settings["mesh.fsdp"], answer.settings["microbatches"]) == ("cached", 4, 1)
    assert compiled[0][1]["reference"] == "live", "the config's own comes first"
    assert compiled[-1] == (answer.plan.topology, answer.settings)
    assert len({repr(layout) for layout in compiled}) == len(compiled), "none is compiled twice"
    assert any("v5e:2x2 --config.mesh.data=1" in line for line in said)
    assert "--config.mesh.fsdp=4 --config.mesh.tensor=1 --config.reference=cached" in plan.recommend(answer, config(folder), None)


def test_what_cannot_fit_is_never_compiled(folder, monkeypatch):
    monkeypatch.setattr(search, "usable_bytes", lambda kind: 2**20)
    found, compiled, said = answers(folder, monkeypatch, lambda laid: True, ["v5e:1x1", "v6e:2x2"])
    assert not compiled and [(answer.generation, answer.plan) for answer in found] == [("v5e", None), ("v6e", None)]
    assert said[0].startswith("v5e:1x1: the state and its gradients take ") and len(said) == 2
    assert plan.recommend(found[0], config(folder), None).startswith("v5e: does not fit v5e:1x1: try --config.optim")


def test_distributions_are_never_advised_to_be_cached(folder):
    run = config(folder, loss=Mpo(retain_by="kl_of_policy"))
    said = plan.recommend(search.Found("v5e", ("v5e:1x1",)), run, None)
    assert said.startswith("v5e: does not fit v5e:1x1: try --config.optim") and "cached" not in said + plan.advice(run)


def test_microbatches_that_cannot_fit_do_not_end_a_search(folder, monkeypatch):
    """Their gradients add up in float32, which alone is too much here; a cached reference comes after them."""
    needs_compiler()
    bound = lambda **run: fit.least_bytes(programs.lay_out(config(folder, **run), "v5e:1x1"))  # noqa: E731
    usable = bound()[1] + 1
    assert bound(microbatches=2, reference="cached")[0] > usable
    monkeypatch.setattr(search, "usable_bytes", lambda kind: usable)
    (answer,), _, _ = answers(folder, monkeypatch, lambda laid: laid.config.reference == "cached", ["v5e:1x1"])
    assert answer.settings is not None and answer.settings["reference"] == "cached"


def test_a_search_keeps_what_would_change_the_numbers(folder, monkeypatch):
    changes = dict(batch_size=4, microbatches=2, remat="attention", reference="cached", optim=OptimConfig(kind="adafactor"))
    _, compiled, _ = answers(folder, monkeypatch, lambda laid: False, ["v5e:2x2"], **changes)
    tried = [chosen for _, chosen in compiled]
    assert {chosen["reference"] for chosen in tried} == {"cached"}
    assert [chosen["remat"] for chosen in tried] == sorted(chosen["remat"] for chosen in tried), "attention, then full"
    assert {chosen["microbatches"] for chosen in tried} == {2, 4}


def test_the_search_command_prints_its_answer(folder, tmp_path, capsys, monkeypatch):
    needs_compiler()
    monkeypatch.setattr(fit, "compile_for", lambda lowered, kind: FITS)
    path = config_file(folder, tmp_path)
    plan.main([f"--config={path}", "--search", "--topologies=v5e:2x2,v5e:1x1", "--tokens=128", "--json"])
    (answer,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (answer["generation"], answer["plan"]["topology"], answer["settings"]["reference"]) == ("v5e", "v5e:1x1", "live")
    for wrong, words in (
        ([], "Neither a slice"),
        (["--search", "--mfu=40"], "--mfu=40.0"),
        (["--search", "--slices=0"], "--slices=0"),
    ):
        with pytest.raises(SystemExit):
            plan.main([f"--config={path}", *wrong])
        assert words in capsys.readouterr().err


def test_several_slices_lie_along_the_data_axis(folder, monkeypatch):
    needs_compiler()
    monkeypatch.setattr(fit, "compile_for", lambda lowered, kind: FITS)
    entry = planned(config(folder, reference="cached", mesh=MeshConfig(auto=True)), "v5e:2x2", slices=2)
    assert entry.mesh == {"data": 2, "fsdp": 4, "tensor": 1}
    one = planned(config(folder, reference="cached"), "v5e:2x2")
    assert entry.masters == one.masters and entry.peak_flops == 2 * one.peak_flops
    with pytest.raises(InputError, match=r"over the 2 slices of this run.* give data=2, a multiple of it, or auto=True"):
        planned(config(folder), "v5e:2x2", slices=2)
