"""What a plan compiles is what a run computes, and what it says is what the compiler said."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mpo_jax import config as configs
from mpo_jax import plan, tpu_compiler
from mpo_jax.errors import InputError
from mpo_jax.losses import Dpo, Mpo, Simpo
from mpo_jax.models.families import build
from mpo_jax.optim import OptimConfig
from mpo_jax.prepare import DataConfig
from mpo_jax.sharding import MeshConfig, batch_to_mesh, make_mesh

RAW = {
    "model_type": "llama", "vocab_size": 65536, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "tie_word_embeddings": False, "hidden_act": "silu",
}  # fmt: skip
LENGTH = 256
FITS = tpu_compiler.Memory(fits=True, peak=1, usable=2, temporaries=1, largest="f32[1] of copy", largest_bytes=4, kernels=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model's configuration, without its weights."""
    out = tmp_path_factory.mktemp("model")
    (out / "config.json").write_text(json.dumps(RAW))
    return out


def config(folder, **changes) -> configs.TrainConfig:
    return configs.TrainConfig(model=str(folder), data=DataConfig("no file", max_length=LENGTH), output="nowhere", **changes)


def needs_compiler():
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed: pip install -r requirements-tpu-plan.txt")


@pytest.fixture(scope="module")
def cached(folder):
    needs_compiler()
    return plan.plan(config(folder, reference="cached", optim=OptimConfig(moments_dtype="bfloat16")), "v5e:2x2")


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
    assert cached.memory.fits
    assert cached.memory.peak >= cached.masters + cached.moments + cached.memory.largest_bytes
    assert "of 15.75 that a device has: fits" in plan.describe(cached, config(folder))


def test_the_compiled_step_has_tpu_kernels_and_no_logits(cached):
    """Forward, and forward once more and backward, of one layer in the scan."""
    assert cached.memory.kernels >= 2
    assert cached.memory.largest_bytes < cached.logits / 2


def test_a_live_reference_is_held_in_its_dtype(folder, monkeypatch):
    needs_compiler()
    monkeypatch.setattr(plan, "compile_for", lambda lowered, kind: FITS)
    live = plan.plan(config(folder), "v5e:2x2")
    assert live.memory is FITS and 2 * live.reference == live.masters


def test_the_command_prints_a_line_of_json_a_slice(folder, tmp_path, capsys, monkeypatch):
    needs_compiler()
    monkeypatch.setattr(plan, "compile_for", lambda lowered, kind: FITS)
    path = tmp_path / "run.py"
    path.write_text(
        "from mpo_jax.config import DataConfig, TrainConfig\n"
        f"def get_config(v=None): return TrainConfig(model={str(folder)!r}, data=DataConfig('no file'), output='nowhere')"
    )
    plan.main([f"--config={path}", "--topologies=v5e:1x1,v5e:2x2", "--tokens=128", "--config.reference=cached", "--json"])
    one, four = map(json.loads, capsys.readouterr().out.splitlines())
    assert (one["topology"], four["topology"], four["mesh"]["fsdp"]) == ("v5e:1x1", "v5e:2x2", 4)
    assert one["memory"]["fits"] and one["rows"] * one["tokens"] >= 8 * 4 * 128
    assert one["logits"] == 4 * four["logits"] and four["reference"] == 0


@pytest.mark.parametrize("loss", [Mpo(), Mpo(retain_pooling="mean_padded"), Simpo(), Dpo()], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("reference", ["live", "cached"])
def test_the_abstract_batch_is_like_the_one_that_a_run_makes(folder, loss, reference):
    run = config(folder, loss=loss, reference=reference, microbatches=2)
    _, model, _ = build(folder)
    mesh = make_mesh(MeshConfig())
    abstract = plan.fullest_batch(run, model, mesh, LENGTH)
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
    entry = plan.Plan("v5e:2x2", {"data": 1, "fsdp": 4, "tensor": 1}, 32, 2048, 1, 1, 0, 1, memory)
    said = plan.describe(entry, config("folder"))
    assert "37.21 GiB of 15.75 that a device has: does not fit: try --config.reference=cached, " in said


def test_the_compiler_itself_refuses_what_does_not_fit():
    needs_compiler()
    mesh = Mesh(np.asarray(tpu_compiler.devices("v5e:2x2")), ("x",), axis_types=(AxisType.Auto,))
    x = jax.ShapeDtypeStruct((4, 2**30, 8), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("x")))
    memory = tpu_compiler.compile_for(jax.jit(jnp.sin).lower(x), "TPU v5 lite")
    assert not memory.fits and memory.peak > memory.usable == round(15.75 * 2**30)


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
        plan.plan(config(folder), name)


def test_a_missing_compiler_is_a_sentence(folder, monkeypatch):
    def get_topology_desc(**_):
        raise RuntimeError("JAX TPU support not installed")

    monkeypatch.setattr(topologies, "get_topology_desc", get_topology_desc)
    with pytest.raises(InputError, match=r"^The TPU compiler is not here .*: install it with pip install -r requirements"):
        plan.plan(config(folder), "v5e:2x4")


def test_a_mesh_or_a_length_that_cannot_be_is_a_sentence(folder):
    needs_compiler()
    with pytest.raises(InputError, match=r"does not divide the 4 devices"):
        plan.plan(config(folder, mesh=MeshConfig(fsdp=3)), "v5e:2x2")
    with pytest.raises(InputError, match=r"'kv_heads' has 2 entries"):
        plan.plan(config(folder, mesh=MeshConfig(tensor=4)), "v5e:2x2")
    with pytest.raises(InputError, match=r"^--tokens=1 .* write 2 or more"):
        plan.plan(config(folder), "v5e:2x2", tokens=1)
    with pytest.raises(InputError, match=r"^optim\.offload=True makes two programs"):
        plan.plan(config(folder, optim=OptimConfig(offload=True)), "v5e:2x2")
