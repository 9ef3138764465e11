"""How long does one training step take, and how much memory, beside a peer's on the same ids and weights?

    JAX_PLATFORMS=cpu python benchmarks/step.py --peer PEER.py [--rounds 3] [--steps 5] [--variants authors lean-cached]

The peer is a PyTorch script of the same step: it takes the shape's options, `--variant NAME --steps N --json -`, and prints
what `measure` below prints, with the sum of its ids. Each measurement is a process of its own, and they take turns, so that a
busy machine is busy for all of them. Without `--peer` only our step is measured. With `--again` our programs come from JAX's
cache of compiled ones, as in a training that is started a second time: compiling takes memory, and the process keeps it.

The batch: `--batch` parallel rows; prompts of 40 to 80, chosen of 20 to 200 and rejected answers of 100 to 300 random ids. The
weights: normal with standard deviation 0.02, norms 1, the embedding tied. float32, AdamW, the gradient clipped at norm 1, the
dominant side's final states averaged over padding too, as the released code does.
"""

import argparse
import dataclasses
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file
from tqdm import tqdm

from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.data.batch_shapes import shapes_of
from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.dataset import DataConfig
from mpo_jax.data.packing import pack
from mpo_jax.data.row_layout import round_up
from mpo_jax.devices.sharding import MeshConfig, batch_to_mesh, make_mesh
from mpo_jax.losses import Mpo
from mpo_jax.losses.base import PreferenceLoss
from mpo_jax.models.families.registry import build
from mpo_jax.models.parameters import Frozen
from mpo_jax.models.weight_table import in_order
from mpo_jax.scoring.objective import Task
from mpo_jax.scoring.sequences import score
from mpo_jax.training import memory_choice
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.optim import OptimConfig, make_optimizer
from mpo_jax.training.step import TrainStep, abstract_state, init_state, jit_train_step
from mpo_jax.training.step_arguments import step_numbers
from mpo_jax.types import Batch, Reads

SHAPE = {"vocab": 128256, "hidden": 256, "layers": 8, "ffn": 1024, "heads": 8, "kv-heads": 4, "batch": 4, "maxlen": 512}
OURS = ("cached", "live")
OURS_AND_THEIRS = Mpo(retain_pooling="mean_padded")  # the loss that the peer computes
PEERS = ("authors", "lean", "chunked", "lean-cached")

Views = Callable[[list[Example]], list[Example]]


def add_shape(parser: argparse.ArgumentParser) -> None:
    for name, default in SHAPE.items():
        parser.add_argument(f"--{name}", type=int, default=default)


def shape_of(args: argparse.Namespace) -> dict[str, int]:
    return {name: getattr(args, name.replace("-", "_")) for name in SHAPE}


def as_options(shape: dict[str, int]) -> list[str]:
    return [part for name, value in shape.items() for part in (f"--{name}", str(value))]


def rows_of(shape: dict[str, int]) -> tuple[list[Example], str, int]:
    """The rows, a digest of the padded ids as the peer holds them, and the width of the dominant side's padded rows."""
    random, digest = np.random.RandomState(0), hashlib.sha256()
    sides, widths = [], []
    for _ in ("source", "target"):
        pairs = []
        for _ in range(shape["batch"]):
            sizes = random.randint(40, 81), random.randint(20, 201), random.randint(100, 301)
            ids = [random.randint(1, shape["vocab"], size=size).astype(np.int32) for size in sizes]
            room = shape["maxlen"] - len(ids[0])
            pairs.append(TokenPair(ids[0], ids[1][:room], ids[2][:room]))
        answers = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
        width = round_up(max(len(prompt) + len(answer) for prompt, answer in answers), 8)
        ids, scored = np.zeros((2, len(answers), width), np.int32)
        for k, (prompt, answer) in enumerate(answers):
            ids[k, : len(prompt) + len(answer)] = np.concatenate([prompt, answer])
            scored[k, len(prompt) : len(prompt) + len(answer)] = 1
        digest.update(ids.tobytes() + scored.tobytes())
        sides.append(pairs)
        widths.append(width)
    examples = [Example(str(i), "xx", source, target) for i, (source, target) in enumerate(zip(*sides, strict=True))]
    return examples, digest.hexdigest(), widths[0]


def write_weights(folder: Path, shape: dict[str, int]) -> None:
    """A checkpoint in Hugging Face's layout. Each tensor has a seed of its own: its place among the sorted names."""
    config = {
        "model_type": "llama",
        "vocab_size": shape["vocab"],
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["ffn"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv-heads"],
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    family, model, _ = build(folder)
    shapes = {name: place.hf_shape for name, place, _ in in_order(model, family.weights(model.config))}
    tensors = {}
    for k, name in enumerate(sorted(shapes)):
        drawn = np.random.RandomState(1000 + k).standard_normal(shapes[name]).astype(np.float32) * np.float32(0.02)
        tensors[name] = np.ones(shapes[name], np.float32) if len(shapes[name]) == 1 else drawn
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def measure(
    folder: Path,
    shape: dict[str, int],
    variant: str,
    steps: int,
    remat: str,
    loss: PreferenceLoss,
    views: Views = list,
    logits: str = "recompute",
) -> dict[str, Any]:
    """Runs one warm-up and `steps` timed updates of a method in this process; `views` adds the pairs that its rows lack."""
    family, model, _ = build(folder)
    examples, digest, width = rows_of(shape)
    examples = views(examples)
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    with jax.set_mesh(mesh):
        batch, frozen = batch_of(examples, loss, width), Frozen({}, {})
        kept = TrainConfig("", DataConfig(""), "", loss, compute_dtype="float32", remat=remat, logits=logits)
        micro = jax.tree.map(lambda x: x[0], batch.policy)
        model = memory_choice.chosen(kept, model, micro, model.abstract(mesh), mesh)
        if variant == "live":
            frozen = Frozen({}, load_params(folder, model, family, mesh))
        else:
            batch = with_scores(batch, model, load_params(folder, model, family, mesh), loss.reference_reads)
        optimizer = make_optimizer(OptimConfig(warmup=0.0, decay="constant"), steps + 1)
        abstract = abstract_state(model.abstract(mesh), optimizer, mesh)
        numbers = step_numbers(loss, 1e-6)
        step = jit_train_step(TrainStep(Task(model, loss, ("xx",)), optimizer, jnp.float32), abstract)
        state = init_state(load_params(folder, model, family, mesh), optimizer, mesh)
        placed = batch_to_mesh(batch, mesh)
        times, cpu_times, losses = [], [], []
        for _ in range(steps + 1):
            clock, cpu = time.perf_counter(), time.process_time()
            state, metrics = step(state, frozen, placed, numbers)
            mean = jax.device_get(metrics["loss"])
            times.append(time.perf_counter() - clock)
            cpu_times.append(time.process_time() - cpu)
            losses.append(float(mean.total / mean.weight))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {
        "step_s_median": statistics.median(times[1:]),
        "cpu_s_median": statistics.median(cpu_times[1:]),
        "compile_s": times[0],
        "peak_rss_mib": peak,
        "loss": losses[0],
        "ids_sha256": digest,
        "kept": f"remat={model.remat} logits={model.logits}",
    }


def batch_of(examples: list[Example], loss: PreferenceLoss, width: int) -> Batch:
    policy, reference = loss.policy_reads, loss.reference_reads
    padded = width if policy.pooling == "mean_padded" else None
    shapes = shapes_of([examples], policy, reference, padded_length=padded)
    return pack(examples, shapes, policy, reference, languages=("xx",), pad_id=0, padded_length=padded)


def with_scores(batch: Batch, model: Any, params: Any, reads: Reads) -> Batch:
    """The batch with its reference scored beforehand, as a run with `reference=cached` has it."""
    rows = batch.weight_B.shape[1]
    one = jax.tree.map(lambda x: x[0], batch.reference)
    scores = jax.device_get(jax.jit(score, static_argnums=(0, 3, 4))(model, params, one, reads, rows))
    return dataclasses.replace(batch, reference=jax.tree.map(lambda x: x[None], scores))


def run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout[done.stdout.index("{") :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(parser)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--variants", nargs="*", default=PEERS, choices=PEERS, help="of the peer")
    parser.add_argument("--ours", nargs="*", default=OURS, choices=OURS, help="with the reference cached or live")
    parser.add_argument("--remat", default="full", help="as in a config; 'auto' too")
    parser.add_argument("--logits", default="recompute", help="as in a config; 'auto' too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--again", action="store_true", help="a run of ours that is not counted compiles for those that are")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = shape_of(args)
    if args.worker:
        if args.again:
            jax.config.update("jax_compilation_cache_dir", str(args.worker / "compiled"))
        print(json.dumps(measure(args.worker, shape, args.ours[0], args.steps, args.remat, OURS_AND_THEIRS, logits=args.logits)))
        return
    options = [*as_options(shape), "--steps", str(args.steps)]
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder), shape)
        ours = [__file__, *options, f"--remat={args.remat}", f"--logits={args.logits}", f"--worker={folder}"]
        ours += ["--again"] if args.again else []
        commands = {f"mpo_jax, {v}": [*ours, "--ours", v] for v in args.ours}
        if args.again:
            for command in commands.values():
                run(command)
        if args.peer:
            commands |= {f"peer, {v}": [str(args.peer), *options, "--variant", v, "--json", "-"] for v in args.variants}
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
        for _ in tqdm(range(args.rounds), desc="rounds"):
            for name, command in commands.items():
                results[name].append(run(command))
    first = next(iter(results.values()))[0]
    print(f"{'':<20}{'s a step':>10}{'CPU s':>8}{'peak MiB':>10}{'first loss':>14}")
    for name, measured in results.items():
        median = {key: statistics.median(m[key] for m in measured) for key in ("step_s_median", "cpu_s_median", "peak_rss_mib")}
        loss = (
            measured[0]["loss"]
            if "loss" in measured[0]
            else sum(measured[0]["records"][0][k] for k in ("loss_gap", "loss_hidden"))
        )
        assert measured[0]["ids_sha256"] == first["ids_sha256"], f"{name} ran on other ids"
        kept = measured[0].get("kept", "")
        print(f"{name:<20}" + "{:>10.2f}{:>8.1f}{:>10.0f}".format(*median.values()) + f"{loss:>14.8f}  {kept}", flush=True)
    if args.peer:  # how fast both multiply in the same minute
        subprocess.run([sys.executable, Path(__file__).with_name("products.py"), "--rounds=3"], check=True)


if __name__ == "__main__":
    main()
