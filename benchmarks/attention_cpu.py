"""How fast is attention on this machine's CPU? Best of some runs, forward and forward + backward, in seconds.

JAX_PLATFORMS=cpu python benchmarks/attention_cpu.py [another attention.py to compare with]
"""

import importlib.util
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from mpo_jax.models.attention.api import attention
from mpo_jax.types import Places

RUNS = 4
# S, T, N, K, H, softcap, longest and shortest sequence
CASES = {
    "packed, H=8": (2, 2392, 8, 8, 8, None, 400, 560),
    "packed, H=32": (2, 2392, 8, 8, 32, None, 400, 560),
    "packed, H=32, soft-cap": (2, 2392, 8, 8, 32, 50.0, 400, 560),
    "padded, H=32": (8, 384, 8, 4, 32, None, 250, 384),
}


def arguments(S, T, N, K, H, low, high):
    """Rows of sequences with three tokens of padding each; the last one fills its row when the row is long."""
    random = np.random.default_rng(0)
    q, k, v = (jnp.asarray(random.normal(size=(S, T, n, H)), jnp.float32) for n in (N, K, K))
    position_ST, segment_ST, kv_segment_ST = (np.zeros((S, T), np.int32) for _ in range(3))
    for s in range(S):
        at = segment = 0
        while at + high <= T:
            segment, length = segment + 1, int(random.integers(low, high))
            position_ST[s, at : at + length] = np.arange(length)
            segment_ST[s, at : at + length] = segment
            kv_segment_ST[s, at : at + length - 3] = segment
            at += length
    position_ST, segment_ST, kv_segment_ST = map(jnp.asarray, (position_ST, segment_ST, kv_segment_ST))
    return q, k, v, Places(position_ST, segment_ST), Places(position_ST, kv_segment_ST)


def seconds(functions, args):
    """The best time of each; they take turns, so that a busy machine is unfair to none."""
    best = [np.inf] * len(functions)
    for run in range(RUNS + 1):
        for i, f in enumerate(functions):
            start = time.perf_counter()
            jax.block_until_ready(f(*args))
            if run:  # the first one compiles
                best[i] = min(best[i], time.perf_counter() - start)
    return best


def main():
    candidates = [attention]
    if sys.argv[1:]:
        module = importlib.util.spec_from_file_location("other", sys.argv[1])
        other = importlib.util.module_from_spec(module)
        module.loader.exec_module(other)
        candidates.insert(0, other.attention)
    for name, (S, T, N, K, H, softcap, low, high) in CASES.items():
        args = arguments(S, T, N, K, H, low, high)
        how = {"scale": H**-0.5, "softcap": softcap, "window": None}
        forward = [jax.jit(lambda *x, f=f, how=how: f(*x, **how)) for f in candidates]
        both = [jax.jit(jax.grad(lambda *x, f=f: jnp.sum(jnp.square(f(*x))), argnums=(0, 1, 2))) for f in forward]
        print(name, "forward", *(f"{t:.3f}" for t in seconds(forward, args)), flush=True)
        print(name, "forward + backward", *(f"{t:.3f}" for t in seconds(both, args)), flush=True)


if __name__ == "__main__":
    main()
