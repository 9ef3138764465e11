"""How fast is a step of an 8B Llama on one accelerator, beside PyTorch's?

    python benchmarks/gpu.py                       # ours alone
    python benchmarks/gpu.py --peer                # and the same step in PyTorch, which must be installed
    python benchmarks/gpu.py --layers 16           # half of the layers, for a device of 80 GB

Random weights of Llama-3.1-8B's shape, bfloat16 computation, float32 masters, AdamW with its first moment in bfloat16, the
reference cached, remat="attention". 8 rows of lengths like the authors' Llama file. Prints the rate of a big bfloat16 matrix
product, and for each step its seconds, real tokens per second, model FLOP/s (the convention of `telemetry.flops`, the same number
of FLOPs for both) and their share of the product's rate.

The peer is transformers' Llama, optimised as one would by hand: right padding without a mask, so that attention is PyTorch's
fused causal kernel; layers checkpointed; only the answers of the target side scored, by log-sum-exp and not log-softmax; the
reference's scores given; bfloat16 weights beside float32 masters, fused AdamW. Both run in processes of their own.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SHAPE = {"vocab": 128256, "hidden": 4096, "layers": 32, "ffn": 14336, "heads": 32, "kv-heads": 8, "rows": 8, "steps": 5}
# Mean tokens of prompt, chosen and rejected answer in the authors' Llama file; a row's are 0.7 to 1.3 times as many.
LENGTHS = {"source": (36, 44, 99), "target": (71, 507, 457)}
UPDATES, LR = 100, 1e-6

Sequences = list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # prompt, chosen, rejected


def draw(shape: dict[str, int]) -> dict[str, Sequences]:
    random = np.random.default_rng(0)
    ids = lambda mean: random.integers(1, shape["vocab"], int(mean * random.uniform(0.7, 1.3))).astype(np.int32)  # noqa: E731
    return {side: [(ids(p), ids(c), ids(r)) for _ in range(shape["rows"])] for side, (p, c, r) in LENGTHS.items()}


def timed(step: Callable[[], float], steps: int) -> dict[str, float]:
    """`step` runs once and returns when it is done."""
    begun = time.perf_counter()
    first = step()
    warm = time.perf_counter() - begun
    times = []
    for _ in range(steps):
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    return {"seconds": statistics.median(times), "first_seconds": warm, "loss": first}


def ours(shape: dict[str, int]) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from mpo_jax.data.chat import Example, TokenPair
    from mpo_jax.data.pipeline import Pipeline
    from mpo_jax.devices.sharding import MeshConfig, batch_to_mesh, make_mesh
    from mpo_jax.losses import Mpo
    from mpo_jax.models.decoder import DecoderConfig, Model
    from mpo_jax.models.parameters import Frozen
    from mpo_jax.scoring.objective import Task
    from mpo_jax.telemetry.flops import update_work
    from mpo_jax.training.optim import OptimConfig, make_optimizer
    from mpo_jax.training.step import TrainStep, abstract_state, init_state, jit_train_step
    from mpo_jax.training.step_arguments import step_numbers
    from mpo_jax.types import Pair, Reads, Scores, SequenceScores

    head = shape["hidden"] // shape["heads"]
    model = Model(
        DecoderConfig(
            vocab_size=shape["vocab"],
            hidden_size=shape["hidden"],
            layers=shape["layers"],
            heads=shape["heads"],
            kv_heads=shape["kv-heads"],
            head_dim=head,
            ffn=shape["ffn"],
            norm_eps=1e-5,
            rope_theta=500000.0,
            query_scale=head**-0.5,
            layer_windows=(None,) * shape["layers"],
            tied=False,
        ),
        remat="attention",
    )
    drawn, rows, loss = draw(shape), shape["rows"], Mpo()
    examples = [Example(str(i), "xx", *(TokenPair(*drawn[side][i]) for side in LENGTHS)) for i in range(rows)]
    host = Pipeline(examples, ("xx",), rows, 0, loss.policy_reads, Reads()).batch_at(0)
    zeros = np.zeros((1, rows), np.float32)
    stored = SequenceScores(logp_B=zeros, count_B=zeros + 1, hidden_BD=np.zeros((1, rows, shape["hidden"]), np.float32))
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    with jax.set_mesh(mesh):
        optimizer = make_optimizer(OptimConfig(moments_dtype="bfloat16", warmup=0.0), UPDATES)
        abstract = abstract_state(model.abstract(mesh), optimizer, mesh)
        state = init_state(model.init(jax.random.key(0)), optimizer, mesh)
        numbers = step_numbers(loss, LR)
        step = jit_train_step(TrainStep(Task(model, loss, ("xx",)), optimizer, jnp.bfloat16), abstract)
        batch = batch_to_mesh(dataclasses.replace(host, reference=Scores(source=Pair(stored, stored))), mesh)

        def once() -> float:
            nonlocal state
            state, metrics = step(state, Frozen({}, {}), batch, numbers)
            mean = jax.device_get(metrics["loss"])
            return float(mean.total / mean.weight)

        found: dict[str, Any] = timed(once, shape["steps"])
        work = update_work(model.config, host)
        side = 8192 if jax.default_backend() != "cpu" else 1024
        product = jax.jit(lambda a, b: a @ b)
        a = jnp.ones((side, side), jnp.bfloat16)
        rate = timed(lambda: float(product(a, a)[0, 0]), 10)["seconds"]
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    device = jax.devices()[0].device_kind
    return found | {
        "flops": work.flops, "tokens": work.tokens, "product": 2 * side**3 / rate, "peak_bytes": peak, "device": device
    }  # fmt: skip


def peer(shape: dict[str, int]) -> dict[str, Any]:
    import torch
    from transformers import LlamaConfig, LlamaModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = LlamaConfig(
        vocab_size=shape["vocab"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["ffn"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv-heads"],
        rope_theta=500000.0,
        use_cache=False,
        attn_implementation="sdpa",
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaModel(config)
        head = torch.nn.Parameter(torch.empty(shape["vocab"], shape["hidden"]).normal_(std=0.02))
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    weights = [*model.parameters(), head]
    masters = [w.detach().float() for w in weights]
    optimizer = torch.optim.AdamW(masters, lr=LR, weight_decay=0.0, fused=device == "cuda")
    drawn = draw(shape)
    padded = {side: _padded(rows, device) for side, rows in drawn.items()}
    rows = shape["rows"]

    def once() -> float:
        source, target = (model(input_ids=padded[side][0]).last_hidden_state for side in LENGTHS)
        ids, scored, _ = padded["target"]
        at, label = scored[:, 1:], ids[:, 1:]
        logits = (target[:, :-1][at] @ head.T).float()
        token = torch.gather(logits, 1, label[at][:, None])[:, 0] - torch.logsumexp(logits, 1)
        owner = torch.arange(2 * rows, device=device)[:, None].expand_as(at)[at]
        mean = torch.zeros(2 * rows, device=device, dtype=torch.float32).index_add(0, owner, token) / at.sum(1)
        gap = mean[:rows] - mean[rows:]
        weight = padded["source"][2].float() / padded["source"][2].sum(1, keepdim=True)
        pooled = torch.einsum("bt,btd->bd", weight, source.float())
        loss = (gap**2).mean() + (pooled**2).mean()
        loss.backward()
        with torch.no_grad():
            norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
            for master, w in zip(masters, weights, strict=True):
                master.grad, w.grad = w.grad.float(), None
            optimizer.step()
            for master, w in zip(masters, weights, strict=True):
                w.copy_(master)
                master.grad = None
        assert torch.isfinite(norm)
        return loss.item()

    found: dict[str, Any] = timed(once, shape["steps"])
    return found | {"peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None, "device": device}


def _padded(rows: Sequences, device: str) -> tuple[Any, Any, Any]:
    """(ids, which are scored, which are real) of the chosen and then the rejected sequences."""
    import torch

    answers = [(p, c) for p, c, _ in rows] + [(p, r) for p, _, r in rows]
    width = max(len(p) + len(a) for p, a in answers)
    ids, scored, real = (torch.zeros(len(answers), width, dtype=t) for t in (torch.long, torch.bool, torch.bool))
    for k, (prompt, answer) in enumerate(answers):
        end = len(prompt) + len(answer)
        ids[k, :end] = torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64))
        scored[k, len(prompt) : end] = True
        real[k, :end] = True
    return ids.to(device), scored.to(device), real.to(device)


SIDES = {"mpo_jax": ours, "peer": peer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in SHAPE.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = {name: getattr(args, name.replace("-", "_")) for name in SHAPE}
    if args.worker:
        print(json.dumps(SIDES[args.worker](shape)))
        return
    options = [part for name, value in shape.items() for part in (f"--{name}", str(value))]
    found = {}
    for side in SIDES if args.peer else ("mpo_jax",):
        done = subprocess.run([sys.executable, __file__, *options, "--worker", side], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{side} ended with {done.returncode}")
        found[side] = json.loads(done.stdout.splitlines()[-1])
    work = found["mpo_jax"]
    print(f"{work['device']}: bfloat16 product {work['product'] / 1e12:.1f} TFLOP/s; {work['tokens']} real tokens a step")
    print(f"{'':<10}{'s a step':>10}{'tokens/s':>10}{'TFLOP/s':>9}{'of product':>12}{'peak GiB':>10}{'first s':>9}")
    for side, measured in found.items():
        seconds, rate = measured["seconds"], work["flops"] / measured["seconds"]
        peak = "-" if measured["peak_bytes"] is None else f"{measured['peak_bytes'] / 2**30:.1f}"
        line = f"{side:<10}{seconds:>10.3f}{work['tokens'] / seconds:>10.0f}{rate / 1e12:>9.2f}{rate / work['product']:>12.1%}"
        print(f"{line}{peak:>10}{measured['first_seconds']:>9.1f}")


if __name__ == "__main__":
    main()
