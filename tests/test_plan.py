"""What a plan compiles is what a run computes, and what it says is what the compiler said."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
from slices import FITS, LENGTH, MESH, RAW, config, config_file, needs_compiler, planned

from mpo_jax import plan
from mpo_jax.devices.sharding import MeshConfig, abstract_on_mesh, batch_to_mesh, make_mesh, shards
from mpo_jax.errors import InputError
from mpo_jax.losses import Cla, Dpo, Lens, Mpo, Simpo
from mpo_jax.models.adapters import LoraConfig
from mpo_jax.models.families.registry import build
from mpo_jax.planning import advice, programs, slice_fit, tpu_compiler
from mpo_jax.training import config as configs
from mpo_jax.training.optim import OptimConfig
from mpo_jax.types import Want


@pytest.fixture(scope="module")
def cached(model_dir):
    return planned(config(model_dir, reference="cached", optim=OptimConfig(moments_dtype="bfloat16")), "v5e:2x2")


def parameters(model) -> int:
    return sum(x.size for x in jax.tree.leaves(model.abstract()))


@needs_compiler
def test_the_state_is_counted_by_the_bytes(model_dir, cached):
    """Norm scales are on every device, all else is cut into four."""
    _, model, _ = build(model_dir)
    matrices = [x.size for x in jax.tree.leaves(model.abstract()) if x.size > 2 * 2 * 256]
    whole = parameters(model) - sum(matrices)
    assert cached.masters == 4 * (sum(matrices) // 4 + whole)
    assert cached.moments == pytest.approx(cached.masters, abs=64), "twice 2 bytes, and two counters"
    assert cached.reference == 0
    step = cached.programs["step"]
    assert cached.fits
    assert step.peak >= cached.masters + cached.moments + step.largest_bytes
    said = advice.describe(cached, config(model_dir), advice.Asked(rows=80, money=1.0))
    assert "of 15.75 GiB usable: fits" in said and "\n  price " in said
    flops = cached.bound.products * cached.peak_flops
    assert flops > cached.update_flops, "the backward pass computes the layers again, and a kernel's products are counted"


@needs_compiler
def test_the_compiled_step_has_tpu_kernels_and_no_logits(cached):
    """Forward, and forward once more and backward, of one layer in the scan."""
    step = cached.programs["step"]
    assert step.kernels >= 2
    assert step.largest_bytes < cached.logits / 2


@needs_compiler
def test_a_live_reference_is_held_in_its_dtype(model_dir, monkeypatch):
    monkeypatch.setattr(slice_fit, "compile_for", lambda lowered, kind: FITS)
    live = planned(config(model_dir), "v5e:2x2")
    assert live.programs["step"] == FITS and 2 * live.reference == live.masters


@needs_compiler
def test_the_command_prints_a_line_of_json_a_slice(model_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(slice_fit, "compile_for", lambda lowered, kind: FITS)
    path = config_file(model_dir, tmp_path)
    plan.main([f"--config={path}", "--topologies=v5e:1x1,v5e:2x2", "--tokens=128", "--config.reference=cached", "--json"])
    one, four = map(json.loads, capsys.readouterr().out.splitlines())
    assert (one["topology"], four["topology"], four["mesh"]["fsdp"]) == ("v5e:1x1", "v5e:2x2", 4)
    assert (one["update_tokens"], 4 * one["peak_flops"]) == (8 * 4 * 128, four["peak_flops"])
    assert one["programs"]["step"]["fits"] and one["rows"] * one["tokens"] >= 8 * 4 * 128
    assert one["fits"] and list(one["programs"]) == ["step", "evaluation", "scoring", "export"]
    assert one["logits"] == 4 * four["logits"] and four["reference"] == 0


@pytest.mark.parametrize("loss", [Mpo(), Mpo(retain_pooling="mean_padded"), Simpo(), Dpo()], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("reference", ["live", "cached"])
def test_the_abstract_batch_is_like_the_one_that_a_run_makes(model_dir, loss, reference):
    run = config(model_dir, loss=loss, reference=reference, microbatches=2)
    _, model, _ = build(model_dir)
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


@pytest.mark.parametrize(("loss", "length"), [(Lens(), LENGTH), (Cla(), LENGTH // 2)], ids=["prompts alone", "answers too"])
def test_prompts_that_are_read_by_themselves_have_their_length(model_dir, loss, length):
    run = config(model_dir, loss=loss)
    batch = programs.fullest(run, build(model_dir)[1], LENGTH, 1).batch_at(0)
    pooled = batch.policy.pool_slot_ST
    assert sorted(pooled[pooled >= 0]) == list(range(8 * run.batch_size, 10 * run.batch_size)), (
        "none of them is packed once for two"
    )
    tokens = 2 * run.batch_size * (length + LENGTH * (loss.policy_reads.want_of_answers("target") != Want.NOTHING))
    assert (batch.policy.segment_ST > 0).sum() == tokens


def test_what_does_not_fit_is_an_answer():
    memory = tpu_compiler.Memory(fits=False, peak=round(37.21 * 2**30), usable=round(15.75 * 2**30))
    message = "RESOURCE_EXHAUSTED: E1000: the total memory required for HLO temporaries (37.21G) exceeds available HBM (15.75G)."
    assert tpu_compiler._too_big(message) == memory
    late = "Ran out of memory in memory space hbm. Used 37.21G of 15.75G hbm. Exceeded hbm capacity by 21.46G. (4.65G) (6.90G)"
    assert tpu_compiler._too_big(late) == memory
    entry = slice_fit.SliceReport("v5e:2x2", 1, MESH, 32, 2048, 1, 1, 0, 0, False, 1, 65536, 1e15, 8e14, False, {"step": memory})
    said = advice.describe(entry, config("model_dir"))
    assert "37.21 GiB of 15.75 GiB usable: does not fit: try --config.reference=cached, " in said


@needs_compiler
def test_a_mesh_or_a_length_that_cannot_be_is_a_sentence(model_dir):
    with pytest.raises(InputError, match=r"does not match the number of devices, 4"):
        planned(config(model_dir, mesh=MeshConfig(fsdp=3)), "v5e:2x2")
    with pytest.raises(InputError, match=r"'kv_heads' has 2 entries"):
        planned(config(model_dir, mesh=MeshConfig(tensor=4)), "v5e:2x2")
    with pytest.raises(InputError, match=r"^--tokens=1 must be at least 2"):
        planned(config(model_dir), "v5e:2x2", tokens=1)


def saying(monkeypatch, *peaks) -> list[int]:
    """The compiler says that one program after the other needs this, of 2 GiB. What is given back is what was asked of it."""
    asked = []

    def compile_for(lowered, kind):
        asked.append(lowered)
        peak = peaks[min(len(asked), len(peaks)) - 1]
        return dataclasses.replace(FITS, peak=peak, usable=2**31, fits=peak <= 2**31)

    monkeypatch.setattr(slice_fit, "compile_for", compile_for)
    return asked


@needs_compiler
def test_two_programs_need_what_the_hungrier_one_does(model_dir, monkeypatch):
    """Moments wait on the host: the gradient's program does not have them, and a reference stays while the update's runs."""
    asked = saying(monkeypatch, 5, 7, 0)
    entry = planned(config(model_dir, optim=OptimConfig(offload=True)), "v5e:2x2")
    assert len(asked) == 4 and entry.moments < 64, "two counters"
    assert entry.programs["step"].peak == 7 + entry.reference
    assert not slice_fit.beside(dataclasses.replace(FITS, usable=10), 10).fits


@pytest.mark.parametrize("held_out", [0.0, 0.1])
@needs_compiler
def test_what_lies_beside_each_program_is_counted(model_dir, monkeypatch, held_out):
    """Where a program itself takes nothing, what is said of it is what the devices hold meanwhile."""
    asked, counter = saying(monkeypatch, 0), 4
    run = config(model_dir)
    run.data.eval_fraction = held_out
    live = planned(run, "v5e:2x2")
    table = 4 * RAW["vocab_size"] * RAW["hidden_size"] // 4  # the embedding is the largest tensor, of which a device has a fourth
    assert len(asked) == 3, "the gaps come with the metrics of the rows that are held out"
    assert {name: memory.peak for name, memory in live.programs.items()} == {
        "step": 0,
        "evaluation": live.moments + (0 if held_out else live.reference),  # which is an argument of the metrics
        "export": live.masters + live.moments + live.reference + counter - table,
    }
    cached = planned(config(model_dir, reference="cached"), "v5e:2x2")
    assert {name: memory.peak for name, memory in cached.programs.items()} == {
        "step": 0,
        "evaluation": cached.moments,
        "scoring": 0,
        "export": cached.masters + cached.moments + counter - table,
    }


@needs_compiler
def test_nothing_is_compiled_after_what_does_not_fit(model_dir, monkeypatch):
    asked = saying(monkeypatch, 2**32)
    assert list(planned(config(model_dir), "v5e:2x2").programs) == ["step"] and len(asked) == 1
    asked = saying(monkeypatch, 0, 2**31)
    entry = planned(config(model_dir), "v5e:2x2")
    assert list(entry.programs) == ["step", "evaluation"] and len(asked) == 2
    assert not entry.fits, "with the moments and the reference beside it"
    assert "of 2.00 GiB usable: does not fit" in advice.describe(entry, config(model_dir))


@needs_compiler
def test_a_run_compiles_what_it_will_execute(model_dir, monkeypatch):
    """No reference to score or to hold for a method without one, and no export where there will be none."""
    saying(monkeypatch, 0)
    export = configs.ExportConfig(enabled=False)
    assert list(planned(config(model_dir, loss=Simpo(), export=export), "v5e:2x2").programs) == ["step", "evaluation"]
    assert "scoring" not in planned(config(model_dir, loss=Simpo(), reference="cached"), "v5e:2x2").programs


@needs_compiler
def test_the_other_programs_are_compiled_too(model_dir, cached):
    assert list(cached.programs) == ["step", "evaluation", "scoring", "export"]
    evaluation, scoring, export = list(cached.programs.values())[1:]
    copy = cached.masters // 2
    assert evaluation.kernels >= 1 and evaluation.largest_bytes < cached.logits / 2
    assert evaluation.peak > cached.masters + cached.moments + copy
    assert scoring.kernels >= 1 and copy < scoring.peak < evaluation.peak
    assert export.peak > cached.masters + cached.moments
    said = advice.describe(cached, config(model_dir))
    assert all(f"\n  {name:<10} " in said for name in cached.programs)


@needs_compiler
def test_microbatches_make_every_program_of_rows_smaller(model_dir, cached, monkeypatch):
    """But for the parameters, of which the compiler lays some out anew for the loop over microbatches."""
    of_rows = (programs._evaluation, programs._scoring)
    monkeypatch.setattr(slice_fit, "programs", lambda layout: itertools.chain.from_iterable(each(layout) for each in of_rows))
    monkeypatch.setattr(slice_fit, "_bound", lambda *_: None)  # of a step that is not compiled here
    parts = planned(config(model_dir, reference="cached", microbatches=4), "v5e:2x2").programs
    for name in ("evaluation", "scoring"):
        assert parts[name].temporaries < cached.programs[name].temporaries / 2


@needs_compiler
def test_moments_on_the_host_are_compiled_for(model_dir, monkeypatch):
    monkeypatch.setattr(slice_fit, "programs", programs._step)  # the others are the same as without
    entry = planned(config(model_dir, reference="cached", optim=OptimConfig(offload=True)), "v5e:2x2")
    assert entry.fits and entry.programs["step"].peak >= 3 * entry.masters, "both moments come for the update"


def test_a_plan_names_what_is_trained_frozen_and_shared():
    gib = tpu_compiler.GIB
    whole = slice_fit.SliceReport(
        "v5e:2x2", 1, MESH, 32, 2048, gib, 2 * gib, 0, 3 * gib, False, 1, 65536, 1e15, 8e14, True, {"step": FITS}
    )
    assert advice.describe(whole, config("m")).splitlines()[1:4] == [
        "  trainable    1.00 GiB  float32 masters",
        "  moments      2.00 GiB",
        "  reference    3.00 GiB",
    ]
    lora = dataclasses.replace(whole, frozen=4 * gib, reference=0, shared=True)
    assert advice.describe(lora, config("m", lora=LoraConfig(4))).splitlines()[1:5] == [
        "  trainable    1.00 GiB  float32 masters of the adapter",
        "  moments      2.00 GiB",
        "  frozen       4.00 GiB  the other weights, in bfloat16",
        "  reference    0.00 GiB  shares the frozen weights",
    ]


@needs_compiler
def test_an_adapter_is_planned_beside_one_copy_of_the_weights(model_dir, monkeypatch):
    """Nothing but the adapter leaves the devices at the end; its largest factor, one of `gate`, is the program's own argument."""
    largest = 4 * 2 * 4 * RAW["intermediate_size"]  # float32, two layers, rank 4
    monkeypatch.setattr(slice_fit, "compile_for", lambda lowered, kind: FITS)
    whole, lora = planned(config(model_dir), "v5e:2x2"), planned(config(model_dir, lora=LoraConfig(4)), "v5e:2x2")
    assert (lora.frozen, lora.reference, lora.shared) == (whole.reference, 0, True) and not whole.frozen
    state = lora.masters + lora.moments + 4  # and the number of the update
    assert lora.programs["export"].peak == FITS.peak + state + lora.frozen - largest
    assert lora.update_flops < 0.8 * whole.update_flops


def test_the_work_of_an_update_at_a_share_of_the_peak():
    entry = slice_fit.SliceReport("v5e:2x2", 1, MESH, 32, 2048, 1, 1, 0, 0, False, 1, 65536, 788e12, 788e12, True, {"step": FITS})
    assert advice.work(entry, None) == "788 TFLOP for 65,536 tokens per update"
    assert advice.work(entry, 0.5) == "788 TFLOP for 65,536 tokens per update; at 50% of 788 TFLOP/s: 2 s, 32,768 tokens/s"
    assert advice.work(dataclasses.replace(entry, peak_flops=None), 0.5) == advice.work(entry, None)


@needs_compiler
def test_what_needs_less_than_its_bound_has_not_been_seen(model_dir, cached):
    run = config(model_dir, reference="cached", optim=OptimConfig(moments_dtype="bfloat16"))
    whatever, least = slice_fit.least_bytes(programs.lay_out(run, "v5e:2x2"))
    assert cached.masters + cached.moments < whatever < least < cached.programs["step"].peak
    assert least - whatever == RAW["num_hidden_layers"] * cached.rows * cached.tokens // 4 * RAW["hidden_size"] * 2


@needs_compiler
def test_several_slices_lie_along_the_data_axis(model_dir, monkeypatch):
    monkeypatch.setattr(slice_fit, "compile_for", lambda lowered, kind: FITS)
    entry = planned(config(model_dir, reference="cached", mesh=MeshConfig(auto=True)), "v5e:2x2", slices=2)
    assert entry.mesh == {"data": 2, "fsdp": 4, "tensor": 1}
    one = planned(config(model_dir, reference="cached"), "v5e:2x2")
    assert entry.masters == one.masters and entry.peak_flops == 2 * one.peak_flops
    with pytest.raises(InputError, match=r"across the 2 TPU slices of this run.* write data=2 or a multiple of it, or auto=True"):
        planned(config(model_dir), "v5e:2x2", slices=2)
