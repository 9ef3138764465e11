"""How far is a training step from its bound? On a CPU, whose peaks can be measured, unlike a TPU's where there is none.

    JAX_PLATFORMS=cpu python benchmarks/bound.py [--rounds 5]

The step of the quickstart, and one with Llama 3's vocabulary, all sequences as long as the config allows; float32, one device.
The peaks are those of large matrix products and of copies that stay in the processor's caches, as most arrays of these steps do,
measured in turn with the steps; of all times the shortest counts. `bound` is what `mpo_jax.plan` would say of the compiled step
with these peaks; `sum` is that of products and memory, which the cores of a CPU do one after the other.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mpo_jax.data.dataset import DataConfig
from mpo_jax.devices.sharding import batch_to_mesh
from mpo_jax.planning.bound import at_peaks
from mpo_jax.planning.cost import Cost, cost
from mpo_jax.planning.hlo import read
from mpo_jax.planning.peaks import Peaks
from mpo_jax.planning.programs import RunLayout, lay_out_on, programs
from mpo_jax.training.config import TrainConfig, parse

LARGER = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(LARGER))
        larger = TrainConfig(
            folder, DataConfig("no file", max_length=256), "nowhere", batch_size=4, compute_dtype="float32", reference="cached"
        )
        layouts = {
            name: lay_out_on(jax.devices()[:1], config, "cpu")
            for name, config in {"quickstart": parse(["--config=quickstart"]), "larger": larger}.items()
        }
    prepared = {name: step_of(layout) for name, layout in layouts.items()}
    runs = {**products(), "copy": copies(), **{name: run for name, (run, _) in prepared.items()}}
    seconds = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds + 1):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - begun)
    peaks = Peaks(PRODUCT_FLOPS / min(seconds[name] for name in products()), COPY_BYTES / seconds["copy"], 1.0, 1.0)
    print(f"peaks: {peaks.flops / 1e9:.0f} GFLOP/s, {peaks.memory / 1e9:.1f} GB/s")
    print("".join(f"{name:>12}" for name in ("", "products", "memory", "bound", "sum", "measured", "of bound")))
    for name, (_, done) in prepared.items():
        least = at_peaks(done, peaks, 0)
        figures = least.products, least.memory, least.seconds, least.products + least.memory, seconds[name]
        print(f"{name:>12}" + "".join(f"{s:>10.3f} s" for s in figures) + f"{seconds[name] / least.seconds:>12.2f}")


def step_of(layout: RunLayout) -> tuple[Callable[[], None], Cost]:
    """One update of random weights on a full batch, and what the compiled program does."""
    with jax.set_mesh(layout.mesh):
        compiled = next(programs(layout)).lowered.compile()
        keys = iter(np.random.default_rng(0).spawn(1000))
        draw = lambda x: jax.device_put(0.02 * next(keys).standard_normal(x.shape, np.float32), x.sharding)  # noqa: E731
        zeros = lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding)  # noqa: E731
        state = jax.tree.map(zeros, layout.state)
        held = {"state": dataclasses.replace(state, trainable=jax.tree.map(draw, layout.state.trainable))}
        frozen = jax.tree.map(draw, layout.frozen)
        batch, numbers = batch_to_mesh(layout.host, layout.mesh), jax.tree.map(zeros, layout.numbers)

    def run() -> None:
        held["state"], metrics = compiled(held["state"], frozen, batch, numbers)
        jax.block_until_ready((held["state"], metrics))

    text = compiled.as_text()
    assert text is not None
    return run, cost(read(text))


SIZE, WORDS, COPIES = 2048, 2**20, 200
PRODUCT_FLOPS, COPY_BYTES = 2 * SIZE**3, 2 * 4 * WORDS * COPIES


def products() -> dict[str, Callable[[], None]]:
    """Of a matrix with itself, and of its transpose with it."""
    x = jnp.ones((SIZE, SIZE), jnp.float32)
    forms = {"product": jax.jit(lambda x: x @ x), "transposed": jax.jit(lambda x: x.T @ x)}
    return {name: lambda form=form: jax.block_until_ready(form(x)) for name, form in forms.items()}


def copies() -> Callable[[], None]:
    """Of one array over itself, many times: no memory is taken from the operating system meanwhile."""
    copy = jax.jit(lambda x: jax.lax.fori_loop(0, COPIES, lambda _, x: -x, x))
    x = jnp.ones(WORDS, jnp.float32)
    return lambda: jax.block_until_ready(copy(x))


if __name__ == "__main__":
    main()
