"""What the TPU compiler says of a program is read as it is meant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from slices import config, needs_compiler, planned

from mpo_jax.errors import InputError
from mpo_jax.planning import tpu_compiler


@needs_compiler
def test_the_compiler_itself_refuses_what_does_not_fit():
    mesh = Mesh(np.asarray(tpu_compiler.devices("v5e:2x2")), ("x",), axis_types=(AxisType.Auto,))
    x = jax.ShapeDtypeStruct((4, 2**30, 8), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("x")))
    memory = tpu_compiler.compile_for(jax.jit(jnp.sin).lower(x), "TPU v5 lite")
    assert not memory.fits and memory.peak > memory.usable == round(15.75 * 2**30)


@needs_compiler
def test_a_program_is_compiled_again_where_programs_are_kept():
    """With a warning, which is an error here, JAX would fail to read what it kept."""
    jax.config.update("jax_enable_compilation_cache", True)
    for _ in range(2):
        x = jax.ShapeDtypeStruct((16, 128), jnp.float32, sharding=SingleDeviceSharding(tpu_compiler.devices("v5e:1x1")[0]))
        assert tpu_compiler.compile_for(jax.jit(jnp.cos).lower(x), "TPU v5 lite").fits


@needs_compiler
def test_the_compiled_text_says_what_a_device_does():
    """On a generation whose programs JAX cannot always write down."""
    mesh = Mesh(np.asarray(tpu_compiler.devices("v5p:2x2x1")), ("x",), axis_types=(AxisType.Auto,))
    x, w = (jax.ShapeDtypeStruct((512, 512), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(*at))) for at in ("x", ()))
    memory = tpu_compiler.compile_for(jax.jit(lambda x, w: jnp.sum(x @ w)).lower(x, w), "TPU v5")
    assert memory.fits and memory.largest is not None and memory.cost is not None
    assert memory.cost.flops == 2 * 512**3 / 4
    assert memory.cost.memory >= (512 / 4 + 512) * 512 * 2
    assert 0 < memory.cost.network < 100, "one number is summed over four devices"


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
@needs_compiler
def test_an_unknown_topology_is_a_sentence(model_dir, name):
    with pytest.raises(InputError, match=rf"^The topology '{name}' is not known .*: write a slice such as v5e:2x4.*\.$"):
        planned(config(model_dir), name)


def test_a_missing_compiler_is_a_sentence(model_dir, monkeypatch):
    def get_topology_desc(**_):
        raise RuntimeError("JAX TPU support not installed")

    monkeypatch.setattr(topologies, "get_topology_desc", get_topology_desc)
    with pytest.raises(InputError, match=r"^The TPU compiler is not installed .*: run `pip install -r requirements"):
        planned(config(model_dir), "v5e:2x4")
