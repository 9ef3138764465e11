"""Does every method train, by the ordinary command, to the same numbers on 1 and 8 devices, with a live and a cached reference?

    python tests/objectives.py [--config configs/quickstart.py] [--prompts 5] [--epochs 2] [--methods dpo,kto]
        [--config.field=value ...]

Each method of `training.variants` is trained on the rows of the first prompts of the config's data; then its metrics, step by
step, and its reward gaps before and after are compared. The devices are XLA's stand-ins for them on a CPU. A table is printed;
the exit code is 1 if a method failed or differed.
"""

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
from tqdm import tqdm
from world import CLOCK, metrics, write_lines

from mpo_jax.data.dataset import most_rows
from mpo_jax.data.rows import read_rows
from mpo_jax.devices.sharding import MeshConfig, make_mesh
from mpo_jax.errors import InputError
from mpo_jax.scoring.language_probe import make_probe
from mpo_jax.training import loop
from mpo_jax.training.config import TrainConfig, parse
from mpo_jax.training.variants import ABLATIONS, BASELINES

ROOT = Path(__file__).resolve().parent.parent
WAYS = {"1 device": (1, "live"), "8 devices": (8, "live"), "8 devices, cached": (8, "cached")}
# Shards pack otherwise, and have other clocks; where the policy still is the reference, which reward is larger is rounding.
NOT_COMPARED = (*CLOCK, "packing_efficiency", "peak_device_gb", "mfu", "rewards/accuracies", "eval_rewards/accuracies")
RTOL, ATOL = 1e-3, 1e-4  # of metrics after some of Adam's updates, which turn rounding into steps where a gradient is near 0
# An Adam without whole steps of rounding, all in float32, nothing written but the metrics.
SETTINGS = ["compute_dtype=float32", "reference_dtype=float32", "optim.eps=1e-3", "metrics.every=1", "metrics.tensorboard=False"]
SETTINGS += ["checkpoint.every=0", "export.enabled=False", "eval_every=0"]


def methods(language: str) -> list[str]:
    return ["", *BASELINES, *ABLATIONS, "mpo_constant=1.58", f"mpo_language={language}", "cla", "mlc", "lens=2", "sdrrl"]


def of_its_own(name: str, config: TrainConfig, folder: Path) -> list[str]:
    """What a method needs beside its name: whole prompts in a batch; a probe of the model, made once for all ways."""
    rows = read_rows(config.data.path, allow_empty_prompt=True)
    if name == "mlc":
        return [f"--config.batch_size={2 * most_rows(rows)}"]
    if not name.startswith("lens"):
        return []
    probe = folder / "probe.safetensors"
    if not probe.exists():
        settings = {"template": config.data.template, "max_length": config.data.max_length, "dtype": "float32"}
        probe.write_bytes(make_probe(config.model, rows, make_mesh(MeshConfig()), **settings).encoded())
    return [f"--config.loss.probe={probe}"]


def run_all(config: str, names: list[str], folder: Path, reference: str, overrides: list[str]) -> None:
    """All methods in this process, one after the other; a sentence that refuses one is kept."""
    for number, name in enumerate(tqdm(names, desc=folder.name)):
        output = folder / str(number)
        given = [f"--config={config}{':' + name if name else ''}", f"--config.output={output}", f"--config.reference={reference}"]
        try:
            own = of_its_own(name, parse([f"--config={config}", *overrides]), folder.parent)
            loop.train(parse([*given, *overrides, *own]))
        except InputError as refused:
            output.mkdir(exist_ok=True, parents=True)
            (output / "refused.txt").write_text(str(refused))
        jax.clear_caches()


def compare(folder: Path, number: int, name: str) -> tuple[str, bool]:
    """A line of the table, and whether it is as it should be."""
    first = folder / "1 device" / str(number)
    if (first / "refused.txt").exists():
        return f"| {name or 'mpo'} | {(first / 'refused.txt').read_text()} | FAILED", False
    base = metrics(first)
    losses = [line["loss"] for line in base if "loss" in line]
    moves = len(set(losses)) > 1
    cells, well = [f"{losses[0]:.4g} -> {losses[-1]:.4g}" + " (raise optim.peak_lr)" * (not moves)], moves
    well &= all(map(math.isfinite, losses))
    for way in list(WAYS)[1:]:
        output = folder / way / str(number)
        if (output / "refused.txt").exists():
            said = (output / "refused.txt").read_text()
            cells.append(f"refused: {said.split(':')[0]}")
            well &= "cached" in way and "does not store" in said
            continue
        worst, where = max(difference(a, b) for a, b in zip(base, metrics(output), strict=True))
        cells.append(f"{worst:.1e}" + f" ({where})" * (worst > 1))
        well &= worst <= 1
    return f"| {name or 'mpo'} | {' | '.join(cells)} |{'' if well else ' FAILED'}", well


def difference(a: dict, b: dict) -> tuple[float, str]:
    """The largest of a line of metrics, as a part of what is allowed, and where it is."""
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    names = [name for name in a if name not in NOT_COMPARED]
    apart = {name: abs(a[name] - b[name]) / (ATOL + RTOL * abs(a[name])) for name in names}
    name = max(apart, key=apart.__getitem__)
    return apart[name], f"{name} of update {a['step']}: {a[name]:.6g}, {b[name]:.6g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--prompts", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--methods", help="names with commas between them; without it all")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given, overrides = parser.parse_known_args()
    if given.worker:
        folder, reference, names = given.worker
        return run_all(given.config, json.loads(names), Path(folder), reference, overrides)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = parse([f"--config={given.config}", *overrides]).data
        assert data.path is not None
        rows = read_rows(data.path, allow_empty_prompt=True)
        prompts = list(dict.fromkeys(row.source.prompt for row in rows if row.source))[: given.prompts]
        rows = [row for row in rows if row.source and row.source.prompt in prompts]
        plain = [dataclasses.asdict(row) for row in rows]
        write_lines(folder / "rows.jsonl", [{k: v for k, v in row.items() if k != "language_method"} for row in plain])
        text = {"language": rows[0].target.language, "prompt": "hi", "answer": "hello"}
        write_lines(folder / "texts.jsonl", [text])
        files = {"path": "rows", "eval_path": "rows", "texts": "texts"}
        settings = [f"--config.{setting}" for setting in SETTINGS] + overrides
        settings += [f"--config.data.{name}={folder / file}.jsonl" for name, file in files.items()]
        names = given.methods.split(",") if given.methods else methods(rows[0].target.language)
        command = [sys.executable, __file__, "--config", given.config, *settings, f"--config.epochs={given.epochs}", "--worker"]
        for way, (devices, reference) in WAYS.items():
            flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
            env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
            with (folder / f"{way}.txt").open("w") as said:
                worker = [str(folder / way), reference, json.dumps(names)]
                done = subprocess.run([*command, *worker], env=env, cwd=ROOT, stdout=said)
            if done.returncode:
                sys.exit((folder / f"{way}.txt").read_text()[-4000:])
        print(f"| method | loss, 1 device, {len(rows)} rows | {' | '.join(list(WAYS)[1:])} |\n|---|---|---|---|")
        lines = [compare(folder, number, name) for number, name in enumerate(names)]
        print("\n".join(line for line, _ in lines))
    sys.exit(not all(well for _, well in lines))


if __name__ == "__main__":
    main()
