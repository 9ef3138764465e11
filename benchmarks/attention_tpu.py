"""Does attention compile for a TPU, and in how much memory? Needs libtpu, no TPU: the compiler runs on a CPU host.

JAX_PLATFORMS=cpu ALLOW_MULTIPLE_LIBTPU_LOAD=1 TPU_SKIP_MDS_QUERY=1 python benchmarks/attention_tpu.py
"""

import time

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding

from mpo_jax.devices.sharding import MeshConfig, make_mesh, spec
from mpo_jax.models.attention.api import KEYS, QUERIES, TOKENS, attention
from mpo_jax.types import Places

S, T = 8, 2048
MESHES = {"v5e:2x2": MeshConfig(1, 2, 2), "v6e:1x1": MeshConfig(1, 1, 1), "v5p:2x2x1": MeshConfig(2, 1, 2)}
# N, K, H, softcap, window
MODELS = {
    "Llama 3.1 8B": (32, 8, 128, None, None),
    "Gemma 2 9B, global": (16, 8, 256, 50.0, None),
    "Gemma 2 9B, sliding": (16, 8, 256, 50.0, 4096),
    "Qwen 2.5 7B": (28, 4, 128, None, None),
    "Llama 3.2 1B": (32, 8, 64, None, None),
}


def compiled(mesh, N, K, H, softcap, window):
    """Forward and backward, bfloat16."""

    def loss(*args):
        seen_STNH = attention(*args, scale=H**-0.5, softcap=softcap, window=window)
        return jnp.sum(jnp.square(seen_STNH.astype(jnp.float32)))

    def abstract(shape, dtype, axes):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec(axes)))

    qkv = [abstract((S, T, heads, H), jnp.bfloat16, axes) for heads, axes in ((N, QUERIES), (K, KEYS), (K, KEYS))]
    where = [Places(*[abstract((S, T), jnp.int32, TOKENS)] * 2)] * 2
    with jax.set_mesh(mesh):
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*qkv, *where).compile()


for topology, config in MESHES.items():
    mesh = make_mesh(config, topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    for name, model in MODELS.items():
        start = time.time()
        memory = compiled(mesh, *model).memory_analysis()
        temporary, peak = memory.temp_size_in_bytes / 2**20, memory.peak_memory_in_bytes / 2**20
        took = time.time() - start
        print(f"{topology} {name}: temporary {temporary:.0f} MiB, peak {peak:.0f} MiB a device, {took:.0f} s", flush=True)
