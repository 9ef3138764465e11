"""How fast does this machine multiply float32 matrices, in XLA and in PyTorch? The floor under `benchmarks/step.py`.

    JAX_PLATFORMS=cpu python benchmarks/products.py [--rounds 7]

The shapes are those of a step at its default shape: the unembedding's products a block of the vocabulary at a time, an MLP's, and
a square one that has nothing but arithmetic. The two take turns; each reading is the best of its rounds, in GFLOP/s.
"""

import argparse
import time
from collections.abc import Callable

import jax
import numpy as np
import torch

# (rows, summed over, columns)
SHAPES = {
    "logits of a block": (3072, 256, 1344),
    "states' gradient": (256, 3072, 1344),
    "table's gradient": (3072, 1344, 256),
    "MLP in": (4416, 256, 1024),
    "MLP out": (4416, 1024, 256),
    "MLP's gradient": (256, 4416, 1024),
    "square": (2048, 2048, 2048),
}


def seconds(do: Callable[[], object]) -> float:
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    random, product = np.random.default_rng(0), jax.jit(lambda a, b: a @ b)
    print(f"GFLOP/s              {'XLA':>6}{'PyTorch':>9}   (float32, {torch.get_num_threads()} threads)")
    for name, (m, k, n) in SHAPES.items():
        a, b = random.standard_normal((m, k), np.float32), random.standard_normal((k, n), np.float32)
        ours, theirs = (jax.device_put(a), jax.device_put(b)), (torch.from_numpy(a), torch.from_numpy(b))
        both = (lambda: product(*ours).block_until_ready(), lambda: theirs[0] @ theirs[1])  # noqa: B023 - called in this round
        for do in both:
            do()
        best = [min(times) for times in zip(*([seconds(do) for do in both] for _ in range(rounds)), strict=True)]
        print(f"{name:<20} {2e-9 * m * k * n / best[0]:>6.0f}{2e-9 * m * k * n / best[1]:>9.0f}", flush=True)


if __name__ == "__main__":
    main()
