"""How many tokens a second are generated, beside transformers on the same weights and prompts, and what would memory allow?

    JAX_PLATFORMS=cpu python benchmarks/generate.py [--rounds 3] [--batch 16] [--new-tokens 64]

A Llama of 86M parameters with random float32 weights and a tied embedding; prompts of 30 to 200 random ids; greedy, with no end
token, so that every answer has all its tokens. transformers runs `generate` with its static cache. Each measurement is a process
of its own that generates once unmeasured, and they take turns, so that a busy machine is busy for both.

The floor of a step is the time in which memory gives the bytes that it has to read: every weight once, and the whole cache. The
memory's rate is measured in our process, as the best of several sums over all weights.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tqdm import tqdm

SHAPE = {"hidden_size": 640, "intermediate_size": 1792, "num_hidden_layers": 14, "num_attention_heads": 10}
SHAPE |= {"num_key_value_heads": 5, "head_dim": 64, "vocab_size": 32_000}
FIXED = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
    "torch_dtype": "float32", "hidden_act": "silu", "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip
WHO = ("ours", "transformers")


def make_model(folder: Path) -> None:
    from mpo_jax.models.families.registry import build
    from mpo_jax.models.weight_table import in_order

    (folder / "config.json").write_text(json.dumps(SHAPE | FIXED))
    family, model, _ = build(folder)
    random = np.random.default_rng(0)
    tensors = {
        name: np.ones(place.hf_shape, np.float32)
        if place.axes[-1] == "norm"
        else (0.05 * random.standard_normal(place.hf_shape, np.float32))
        for name, place, _ in in_order(model, family.weights(model.config))
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def prompts(batch: int) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.integers(0, SHAPE["vocab_size"], n).astype(np.int32) for n in np.linspace(30, 200, batch).astype(int)]


def ours(folder: Path, asked: list[np.ndarray], new: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from mpo_jax.checkpoints.hugging_face import load_params
    from mpo_jax.data.prompts.base import Message, Prompt
    from mpo_jax.devices.sharding import make_generation_mesh
    from mpo_jax.generation.base import Decoding, Request
    from mpo_jax.generation.engine import Engine, Spent
    from mpo_jax.generation.weights import placed
    from mpo_jax.models.families.registry import build

    class Numbered:
        """Prompt n is the n-th list of ids, and nothing ends an answer."""

        stop_ids = (-1,)

        def tokens(self, messages: Any) -> np.ndarray:
            return asked[int(messages[0].content)]

        def decode(self, ids: Any) -> str:
            return ""

    family, model, _ = build(folder)
    mesh = make_generation_mesh(width=1, tensor=1, devices=jax.devices()[:1])
    params = placed(model, load_params(folder, model, family, mesh), mesh, jnp.float32, consume=True)
    conversation: Any = Numbered()
    engine = Engine(model, params, mesh, conversation, Decoding(max_new_tokens=new), batch_size=len(asked), known={})
    requests = []
    for number in range(len(asked)):
        messages = (Message("user", str(number)),)
        requests.append(Request(Prompt(str(number), "en", messages), 0, 0, messages, str(number)))
    list(engine.respond(requests))
    engine.spent = Spent()
    begin = time.perf_counter()
    answers = {request.key: answer.tokens for request, answer in engine.respond(requests)}
    seconds = time.perf_counter() - begin
    assert engine.spent.tokens == len(asked) * new
    assert engine._cache is not None
    weights = sum(x.nbytes for x in jax.tree.leaves(params))
    cache = sum(x.nbytes for x in jax.tree.leaves(engine._cache))
    read = jax.jit(lambda params: [jnp.sum(x) for x in jax.tree.leaves(params)])
    jax.block_until_ready(read(params))
    best = min(_seconds(lambda: jax.block_until_ready(read(params))) for _ in range(10))
    return {
        "seconds": seconds,
        "prefill": engine.spent.prefill_seconds,
        "step": engine.spent.decode_seconds / (new - 1),
        "bytes": weights + cache,
        "rate": weights / best,
        "first": [answers[request.key] for request in requests[:2]],
    }


def _seconds(do: Any) -> float:
    begin = time.perf_counter()
    do()
    return time.perf_counter() - begin


def transformers(folder: Path, asked: list[np.ndarray], new: int) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    width = max(map(len, asked))
    ids, mask = (np.zeros((len(asked), width), np.int64) for _ in range(2))
    for row, prompt in enumerate(asked):
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, 1

    def generate() -> Any:
        with torch.no_grad():
            return model.generate(
                torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), do_sample=False, max_new_tokens=new,
                min_new_tokens=new, eos_token_id=None, pad_token_id=0, cache_implementation="static",
            )  # fmt: skip

    generate()
    begin = time.perf_counter()
    out = generate()
    seconds = time.perf_counter() - begin
    assert out.shape[1] == width + new
    return {"seconds": seconds, "first": out[:2, width:].tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--measure", choices=WHO, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure = {"ours": ours, "transformers": transformers}[args.measure]
        print(json.dumps(measure(args.model, prompts(args.batch), args.new_tokens)))
        return
    found: dict[str, list[dict[str, Any]]] = {who: [] for who in WHO}
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        shape = ["--batch", str(args.batch), "--new-tokens", str(args.new_tokens), "--model", folder]
        for who in tqdm([who for _ in range(args.rounds) for who in WHO], unit="measurement"):
            done = subprocess.run(
                [sys.executable, __file__, *shape, "--measure", who], capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(done.stderr)
            found[who].append(json.loads(done.stdout.splitlines()[-1]))
    assert found["ours"][0]["first"] == found["transformers"][0]["first"], "the two wrote different tokens"
    tokens = args.batch * args.new_tokens
    for who in WHO:
        rates = [tokens / one["seconds"] for one in found[who]]
        print(f"{who:13} {statistics.median(rates):6.0f} tokens/s (of {args.rounds} runs: {min(rates):.0f} to {max(rates):.0f})")
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(found["ours"], found["transformers"], strict=True)]
    run_by_run = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"ours / transformers, run by run: {run_by_run}; median {statistics.median(ratios):.2f}")
    best = min(found["ours"], key=lambda one: one["step"])
    rate = max(one["rate"] for one in found["ours"])
    floor = best["bytes"] / rate
    print(
        f"a step: {1e3 * best['step']:.1f} ms; memory at {rate / 1e9:.1f} GB/s gives its {best['bytes'] / 1e6:.0f} MB in "
        f"{1e3 * floor:.1f} ms, {floor / best['step']:.0%} of it; prompts are read in {best['prefill']:.2f} s"
    )


if __name__ == "__main__":
    main()
