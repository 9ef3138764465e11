"""What does JAX's CUDA compiler make of a program? It needs no GPU, only a description of one."""

import collections
import re

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from mpo_jax.devices.sharding import MESH_AXES

# Compute capability, multiprocessors, and bytes of shared memory that one program may have.
GPUS = {"A100": ((8, 0), 108, 166912), "H100": ((9, 0), 132, 232448), "RTX 4090": ((8, 9), 128, 101376)}
_DESCRIPTION = """
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}
  core_count: {cores}
  shared_memory_per_block_optin: {shared}
  shared_memory_per_core: {shared}
  shared_memory_per_block: 49152
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  threads_per_warp: 32
  fpus_per_core: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  memory_bandwidth: 2000000000000
  l2_cache_size: 41943040
  clock_rate_ghz: 1.4
  device_memory_size: 85899345920
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "{name}"
"""


def mesh(name: str, shape: tuple[int, int, int]) -> Mesh:
    """One of GPUs that are only described. Skips where the compiler is not installed."""
    pytest.importorskip(
        "jax_plugins.xla_cuda12",
        reason="needs JAX's CUDA compiler: make test-gpu",
    )
    jax.devices()  # registers plugins
    (major, minor), cores, shared = GPUS[name]
    target = _DESCRIPTION.format(
        name=name,
        major=major,
        minor=minor,
        cores=cores,
        shared=shared,
        extension="ACCELERATED_FEATURES" if major >= 9 else "NONE",
    )
    described = topologies.get_topology_desc("", "cuda", topology=f"1x1x{np.prod(shape)}", target_config=target)
    return Mesh(np.array(described.devices).reshape(shape), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def kernels(program: str) -> dict[str, int]:
    """How many calls of each Pallas kernel a compiled program has."""
    return dict(collections.Counter(re.findall(r'= .* custom-call\(.*op_name="[^"]*/(\w+)/pallas_call"', program)))
