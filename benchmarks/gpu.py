"""Is attention right on this GPU, and how fast is a step of an 8B Llama, beside PyTorch's?

    python benchmarks/gpu.py                       # attention by each kernel, then our step
    python benchmarks/gpu.py --blocks              # and the step with attention in plain XLA
    python benchmarks/gpu.py --peer                # and the same step in PyTorch, which must be installed
    python benchmarks/gpu.py --layers 16           # half of the layers, for a device of 80 GB

Attention first, on the rows of the step, in bfloat16: Triton's kernels and the blocks in plain XLA against a dense float32
formula, result and gradients, as shares of the largest number there; a sound kernel stays below 0.02. Then their seconds, and
beside them those of other tiles (should one be faster, `gpu_triton.TILES` is the place), of JAX's own Triton kernel and of cuDNN;
that one gets the sequences cut out of their rows and padded. What does not run on the device is named with its error.

Then the step. Random weights of Llama-3.1-8B's shape, bfloat16 computation, float32 masters, AdamW with its first moment in
bfloat16, the reference cached, remat="attention". 8 rows of lengths like the authors' Llama file. Prints the rate of a big
bfloat16 matrix product, and for each step its seconds, real tokens per second, model FLOP/s (the convention of `telemetry.flops`,
the same number of FLOPs for both) and their share of the product's rate. On several devices a run overlaps its collectives with
XLA_FLAGS="--xla_gpu_enable_latency_hiding_scheduler=true --xla_gpu_enable_pipelined_all_gather=true
--xla_gpu_enable_pipelined_reduce_scatter=true"; JAX 0.10.2 knows these.

The peer is transformers' Llama, optimised as one would by hand: right padding without a mask, so that attention is PyTorch's
fused causal kernel; layers checkpointed; only the answers of the target side scored, by log-sum-exp and not log-softmax; the
reference's scores given; bfloat16 weights beside float32 masters, fused AdamW. Each runs in a process of its own.

The parity tests run on a GPU too, its kernels compiled and not interpreted; those of more devices than there are skip:

    JAX_PLATFORMS=cuda,cpu JAX_DEFAULT_MATMUL_PRECISION=highest python -m pytest tests/models tests/scoring \\
        -k "not split and not sharded and not gathered and not abstract"

On a CPU it has been tried with --vocab 512 --hidden 64 --layers 2 --ffn 128 --heads 4 --kv-heads 2 --rows 2.
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
# Other tiles of the three Triton kernels than the package's: queries, keys, warps, stages.
TILES = {
    "64, 4 warps": ((64, 64, 4, 2), (32, 64, 4, 2), (64, 32, 4, 2)),
    "128, square": ((128, 128, 8, 2), (64, 128, 8, 2), (128, 64, 8, 2)),
    "3 stages": ((128, 64, 8, 3), (64, 64, 8, 3), (64, 64, 8, 3)),
}

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


def host_batch(shape: dict[str, int]) -> Any:
    """The drawn rows, packed."""
    from mpo_jax.data.chat import Example, TokenPair
    from mpo_jax.data.pipeline import Pipeline
    from mpo_jax.losses import Mpo
    from mpo_jax.types import Reads

    drawn, rows = draw(shape), shape["rows"]
    examples = [Example(str(i), "xx", *(TokenPair(*drawn[side][i]) for side in LENGTHS)) for i in range(rows)]
    return Pipeline(examples, ("xx",), rows, 0, Mpo().policy_reads, Reads()).batch_at(0)


def attention(shape: dict[str, int]) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from mpo_jax.models.attention import gpu_triton, xla_blocks
    from mpo_jax.types import Places

    packed = jax.tree.map(lambda x: jnp.asarray(x[0]), host_batch(shape).policy)
    queries, keys = (Places(packed.position_ST, segment) for segment in (packed.segment_ST, packed.kv_segment_ST))
    (S, T), N, K = queries.segment.shape, shape["heads"], shape["kv-heads"]
    H, repeated = shape["hidden"] // N, lambda x: jnp.repeat(x, N // K, axis=2)
    how = {"scale": H**-0.5, "softcap": None, "window": None, "saved_as": "attention"}

    def dense(q: Any, k: Any, v: Any) -> Any:
        @jax.checkpoint
        def row(x: Any) -> Any:
            q_TNH, k_TNH, v_TNH, position_T, segment_T, key_segment_T = x
            score_NTU = jnp.einsum("TNH,UNH->NTU", q_TNH, k_TNH, precision="highest") * how["scale"]
            sees_TU = (position_T[:, None] >= position_T[None]) & (segment_T[:, None] == key_segment_T[None])
            sees_TU &= segment_T[:, None] > 0
            weight_NTU = jax.nn.softmax(jnp.where(sees_TU[None], score_NTU, -1e30), axis=2) * sees_TU[None]
            return jnp.einsum("NTU,UNH->TNH", weight_NTU, v_TNH, precision="highest")

        q, k, v = (x.astype(jnp.float32) for x in (q, repeated(k), repeated(v)))
        return jax.lax.map(row, (q, k, v, *queries, keys.segment))

    def tiled(tiles: Any) -> Callable[..., Any]:
        def attend(q: Any, k: Any, v: Any) -> Any:
            kept = gpu_triton.TILES
            gpu_triton.TILES = {H: gpu_triton.Tiles(*(gpu_triton.Tile(*tile) for tile in tiles))}
            try:
                return gpu_triton.attend(q, k, v, queries, keys, **how)
            finally:
                gpu_triton.TILES = kept

        return attend

    def jax_own(q: Any, k: Any, v: Any) -> Any:
        from jax.experimental.pallas.ops.gpu.attention import mha

        pad = lambda x: jnp.pad(x, [(0, 0), (0, -T % 128)] + [(0, 0)] * (x.ndim - 2))  # noqa: E731
        q, k, v, segment = map(pad, (q, repeated(k), repeated(v), queries.segment))
        return mha(q, k, v, segment, sm_scale=how["scale"], causal=True)[:, :T]

    def cudnn(q: Any, k: Any, v: Any) -> Any:
        return jax.nn.dot_product_attention(
            *(q, k, v),
            scale=how["scale"],
            is_causal=True,
            query_seq_lengths=lengths,
            key_value_seq_lengths=lengths,
            implementation="cudnn",
        )

    def gradients(attend: Callable[..., Any]) -> Callable[..., Any]:
        def total(q: Any, k: Any, v: Any) -> Any:
            out = attend(q, k, v)
            return jnp.sum(out.astype(jnp.float32) * weight[: out.shape[0], : out.shape[1]]), out

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))

    drawn = draw(shape)
    lengths = jnp.asarray([len(p) + len(a) for rows in drawn.values() for p, *answers in rows for a in answers], jnp.int32)
    cut, longest = len(lengths), -(-int(lengths.max()) // 128) * 128
    random = jax.random.normal(jax.random.key(0), (4, max(S, cut), max(T, longest), N, H), jnp.bfloat16)
    weight = random[3].astype(jnp.float32)
    in_rows, in_sequences = (
        (random[0, :S, :T], random[1, :S, :T, :K], random[2, :S, :T, :K]),
        (random[0, :cut, :longest], random[1, :cut, :longest, :K], random[2, :cut, :longest, :K]),
    )
    (_, out), grads = gradients(dense)(*in_rows)
    want = [np.asarray(x.astype(jnp.float32)) for x in (out, *grads)]
    kernels: dict[str, tuple[Callable[..., Any], Any]] = {
        "triton": (lambda *x: gpu_triton.attend(*x, queries, keys, **how), in_rows),
        "blocks": (lambda *x: xla_blocks.attend(*x, queries, keys, **how, rows_at_once=S), in_rows),
        **{name: (tiled(tiles), in_rows) for name, tiles in TILES.items()},
        "JAX's own": (jax_own, in_rows),
        "cuDNN": (cudnn, in_sequences),
    }
    found: dict[str, Any] = {}
    for name, (attend, arguments) in kernels.items():
        try:
            both, forward = gradients(attend), jax.jit(attend)
            (_, out), grads = both(*arguments)
            found[name] = {
                "forward": timed(lambda f=forward, x=arguments: float(f(*x)[0, 0, 0, 0]), shape["steps"])["seconds"],
                "both": timed(lambda f=both, x=arguments: float(f(*x)[1][2][0, 0, 0, 0]), shape["steps"])["seconds"],
            }
            if name not in ("JAX's own", "cuDNN"):  # whose padding sees other keys, or lies elsewhere
                got = [np.asarray(x.astype(jnp.float32)) for x in (out, *grads)]
                found[name]["differ"] = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, want, strict=True)]
        except Exception as error:  # a kernel that this device cannot run is a result
            found[name] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"}
    return {"kernels": found, "rows": (S, T), "sequences": (cut, longest)}


def ours(shape: dict[str, int]) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from mpo_jax.devices.sharding import MeshConfig, batch_to_mesh, make_mesh
    from mpo_jax.losses import Mpo
    from mpo_jax.models.decoder import DecoderConfig, Model
    from mpo_jax.models.parameters import Frozen
    from mpo_jax.scoring.objective import Task
    from mpo_jax.telemetry.flops import update_work
    from mpo_jax.training.optim import OptimConfig, make_optimizer
    from mpo_jax.training.step import TrainStep, abstract_state, init_state, jit_train_step
    from mpo_jax.training.step_arguments import step_numbers
    from mpo_jax.types import Pair, Scores, SequenceScores

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
    host, rows, loss = host_batch(shape), shape["rows"], Mpo()
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
        work = update_work(model.config, host, abstract.trainable)
        side = 8192 if jax.default_backend() != "cpu" else 1024
        product = jax.jit(lambda a, b: a @ b)
        a = jnp.ones((side, side), jnp.bfloat16)
        rate = timed(lambda: float(product(a, a)[0, 0]), 10)["seconds"]
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    device = jax.devices()[0].device_kind
    return found | {
        "flops": work.flops, "tokens": work.tokens, "product": 2 * side**3 / rate, "peak_bytes": peak, "device": device
    }  # fmt: skip


def in_blocks(shape: dict[str, int]) -> dict[str, Any]:
    """Our step, as if every head were too wide for the kernels of a GPU."""
    from mpo_jax.models.attention import api

    api.LARGEST_TRITON_HEAD = 0
    return ours(shape)


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


STEPS = {"mpo_jax": ours, "in blocks": in_blocks, "peer": peer}
WORKERS = {"attention": attention, **STEPS}


def measured(worker: str, options: list[str]) -> Any:
    """What the worker found, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *options, "--worker", worker], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{worker} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def print_attention(found: dict[str, Any]) -> None:
    (S, T), (cut, longest) = found["rows"], found["sequences"]
    print(f"Attention: {S} rows of {T} tokens; cuDNN: {cut} of {longest}. Largest difference from dense float32, then time:")
    print(f"{'':<12}{'result':>9}{'q':>9}{'k':>9}{'v':>9}{'forward ms':>12}{'and backward':>14}")
    for name, kernel in found["kernels"].items():
        if "error" in kernel:
            print(f"{name:<12}  does not run here: {kernel['error']}")
            continue
        differ = "".join(f"{x:>9.5f}" for x in kernel["differ"]) if "differ" in kernel else f"{'-':>9}" * 4
        print(f"{name:<12}{differ}{1e3 * kernel['forward']:>12.3f}{1e3 * kernel['both']:>14.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in SHAPE.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--blocks", action="store_true", help="also the step with attention in plain XLA")
    parser.add_argument("--peer", action="store_true", help="also the step in PyTorch")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = {name: getattr(args, name.replace("-", "_")) for name in SHAPE}
    if args.worker:
        print(json.dumps(WORKERS[args.worker](shape)))
        return
    options = [part for name, value in shape.items() for part in (f"--{name}", str(value))]
    print_attention(measured("attention", options))
    wanted = {"mpo_jax": True, "in blocks": args.blocks, "peer": args.peer}
    found = {side: measured(side, options) for side in STEPS if wanted[side]}
    work = found["mpo_jax"]
    print(f"{work['device']}: bfloat16 product {work['product'] / 1e12:.1f} TFLOP/s; {work['tokens']} real tokens a step")
    print(f"{'':<10}{'s a step':>10}{'tokens/s':>10}{'TFLOP/s':>9}{'of product':>12}{'peak GiB':>10}{'first s':>9}")
    for side, step in found.items():
        seconds, rate = step["seconds"], work["flops"] / step["seconds"]
        peak = "-" if step["peak_bytes"] is None else f"{step['peak_bytes'] / 2**30:.1f}"
        line = f"{side:<10}{seconds:>10.3f}{work['tokens'] / seconds:>10.0f}{rate / 1e12:>9.2f}{rate / work['product']:>12.1%}"
        print(f"{line}{peak:>10}{step['first_seconds']:>9.1f}")


if __name__ == "__main__":
    main()
