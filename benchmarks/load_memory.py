"""How much host memory does loading a checkpoint take, over the parameters themselves?

    JAX_PLATFORMS=cpu python benchmarks/load_memory.py [--gigabytes 1.2] [--dtype float32]

Writes a random bfloat16 Llama of that size to a temporary folder, loads it in a fresh process, and prints the peak resident
memory of that process over what it used before loading, beside the bytes of the parameters (which on a CPU are host memory
too). On an accelerator the parameters leave the host and the difference is all that remains.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from mpo_jax.convert import load_params
from mpo_jax.models.families import build
from mpo_jax.models.weights import in_order
from mpo_jax.sharding import MeshConfig, make_mesh

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
    mesh = make_mesh(MeshConfig())
    before = resident("VmRSS")
    params = jax.block_until_ready(load_params(folder, model, family, mesh, jnp.dtype(dtype)))
    own, peak = sum(x.nbytes for x in jax.tree.leaves(params)), resident("VmHWM") - before
    largest = max(x.nbytes / (x.shape[0] if x.ndim > 2 else 1) for x in jax.tree.leaves(params))
    print(f"parameters {own / 1e9:.2f} GB as {dtype}, largest tensor {largest / 1e9:.3f} GB, peak {peak / 1e9:.2f} GB: "
          f"{(peak - own) / 1e9:.2f} GB over the parameters, {peak / own:.2f} times")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.2, help="size of the checkpoint's files")
    parser.add_argument("--dtype", default="float32", help="of the loaded parameters")
    parser.add_argument("--folder", type=Path, help="measure loading this folder in this process, write nothing")
    args = parser.parse_args()
    if args.folder is not None:
        return measure(args.folder, args.dtype)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), args.gigabytes)
        subprocess.run([sys.executable, __file__, "--folder", folder, "--dtype", args.dtype], check=True)


if __name__ == "__main__":
    main()
