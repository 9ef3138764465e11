"""How much host memory does loading a checkpoint take, over the parameters themselves?

    JAX_PLATFORMS=cpu python benchmarks/load_memory.py [--gigabytes 1.2] [--dtype float32] [--processes 1]

Writes a random bfloat16 Llama of that size to a temporary folder, loads it in fresh processes, and prints for each the time, how
much it read, and its peak resident memory over what it used before loading, beside the bytes of its part of the parameters (which
on a CPU are host memory too). On an accelerator the parameters leave the host and the difference is all that remains.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.checkpoints.safetensors_files import Stored
from mpo_jax.devices import processes
from mpo_jax.devices.sharding import MeshConfig, make_mesh
from mpo_jax.models.families.registry import build
from mpo_jax.models.weight_table import Place, in_order

CONFIG = dict(model_type="llama", vocab_size=32_000, hidden_size=2048, intermediate_size=5632, num_attention_heads=16)


def write(folder: Path, gigabytes: float) -> None:
    """A checkpoint of about this size, one file a layer."""
    layer_bytes = 2 * (4 * 2048**2 + 3 * 2048 * 5632)
    layers = max(1, round((gigabytes * 1e9 - 4 * 32_000 * 2048) / layer_bytes))
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))
    family, model, _ = build(folder)
    files: dict[str, dict[str, np.ndarray]] = {}
    for name, place, layer in in_order(model, family.weights(model.config)):
        tensor = np.full(place.hf_shape, 0.5, jnp.bfloat16)
        files.setdefault(f"model-{layer}.safetensors", {})[name] = tensor
    for file, tensors in files.items():
        save_file(tensors, folder / file)
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def resident(key: str) -> int:
    """Bytes from /proc/self/status: VmRSS = now, VmHWM = the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def measure(folder: Path, dtype: str) -> None:
    family, model, _ = build(folder)
    mesh, read, import_slice = make_mesh(MeshConfig()), 0, Place.import_slice

    def counted(place: Place, stored: Stored, index: tuple[slice, ...]) -> np.ndarray:
        nonlocal read
        found = import_slice(place, stored, index)
        read += found.nbytes
        return found

    Place.import_slice = counted
    before, begun = resident("VmRSS"), time.monotonic()
    params = jax.block_until_ready(load_params(folder, model, family, mesh, jnp.dtype(dtype)))
    seconds, leaves = time.monotonic() - begun, jax.tree.leaves(params)
    whole = sum(x.nbytes for x in leaves)
    own, peak = sum(shard.data.nbytes for x in leaves for shard in x.addressable_shards), resident("VmHWM") - before
    largest = max(x.nbytes / (x.shape[0] if x.ndim > 2 else 1) for x in leaves)
    print(f"process {jax.process_index()}: {own / 1e9:.2f} GB of parameters as {dtype}, of {whole / 1e9:.2f}, "
          f"largest tensor {largest / 1e9:.3f} GB; read {read / 1e9:.2f} GB in {seconds:.0f} s; peak {peak / 1e9:.2f} GB: "
          f"{(peak - own) / 1e9:.2f} GB over the parameters, {peak / own:.2f} times", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.2, help="size of the checkpoint's files")
    parser.add_argument("--dtype", default="float32", help="of the loaded parameters")
    parser.add_argument("--processes", type=int, default=1, help="of one device each, which share the parameters")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--join", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder is not None:
        coordinator, count, index = args.join or (None, None, None)
        with processes.joined(processes.HostsConfig(coordinator, count and int(count), index and int(index))):
            measure(args.folder, args.dtype)
            processes.wait("all have loaded")
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), args.gigabytes)
        command = [sys.executable, __file__, "--folder", folder, "--dtype", args.dtype]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        join = [["--join", coordinator, str(args.processes), str(i)] if args.processes > 1 else [] for i in range(args.processes)]
        running = [subprocess.Popen([*command, *more], env=os.environ) for more in join]
        if any([process.wait() for process in running]):
            sys.exit("a process failed, see above")


if __name__ == "__main__":
    main()
