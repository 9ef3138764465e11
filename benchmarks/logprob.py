"""What does the log-prob stage take alone, fused and naive, forward and backward, as tokens and vocabulary grow?

    JAX_PLATFORMS=cpu python benchmarks/logprob.py [--tokens 1024 2048 4096] [--vocab 128256 256000] [--width 64]

Each line is a process of its own: seconds of the best of three runs, the peak of its memory over what it had before (states,
unembedding and both gradients are in it), and the bytes of the logits that the naive way holds.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from mpo_jax.scoring.token_logprob import token_logps


def naive(h_SAD, unembed_VD, label_SA, softcap):
    logits_SAV = jnp.einsum("sad,vd->sav", h_SAD, unembed_VD)
    logp_SAV = jax.nn.log_softmax(logits_SAV if softcap is None else softcap * jnp.tanh(logits_SAV / softcap))
    return jnp.take_along_axis(logp_SAV, label_SA[..., None], axis=-1)[..., 0]


STAGES = {"fused": token_logps, "naive": naive}


def peak() -> float:
    """Megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def measure(stage: str, tokens: int, vocab: int, width: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    h_SAD = jnp.asarray(random.standard_normal((1, tokens, width), np.float32))
    unembed_VD = jnp.asarray(0.02 * random.standard_normal((vocab, width), np.float32))
    label_SA = jnp.asarray(random.integers(0, vocab, (1, tokens)), jnp.int32)
    pull = jax.jit(jax.grad(lambda h_SAD, unembed_VD: STAGES[stage](h_SAD, unembed_VD, label_SA, None).sum(), (0, 1)))
    run = pull.lower(h_SAD, unembed_VD).compile()
    before, times = peak(), []
    for _ in range(3):
        clock = time.perf_counter()
        jax.block_until_ready(run(h_SAD, unembed_VD))
        times.append(time.perf_counter() - clock)
    return {"seconds": min(times), "megabytes": peak() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="*", default=[1024, 2048, 4096])
    parser.add_argument("--vocab", type=int, nargs="*", default=[128256, 256000])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args.worker, args.tokens[0], args.vocab[0], args.width)))
        return
    print(f"{'stage':<8}{'tokens':>8}{'vocab':>9}{'seconds':>10}{'peak MB':>10}{'logits MB':>11}")
    for vocab in args.vocab:
        for tokens in args.tokens:
            for stage in args.stages:
                options = ["--tokens", str(tokens), "--vocab", str(vocab), "--width", str(args.width), "--worker", stage]
                done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, check=True)
                found = json.loads(done.stdout)
                size = f"{tokens * vocab * 4 / 1e6:>11.0f}"
                print(f"{stage:<8}{tokens:>8}{vocab:>9}{found['seconds']:>10.2f}{found['megabytes']:>10.0f}" + size, flush=True)


if __name__ == "__main__":
    main()
