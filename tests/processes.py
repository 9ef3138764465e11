"""Is a run of several processes the run of one? The same training on 8 devices by 1, 2 and 4 processes, by the ordinary command.

    python tests/processes.py --config=configs/llama31.py --config.model=FOLDER [--config.field=value ...]

The devices are XLA's stand-ins for them on a CPU, the processes meet over this machine's own network. Metrics, step by step, and
every exported weight are compared with those of one process; a weight may differ by a hundredth of the largest change that the
training made. A table is printed; the exit code is 1 if a run failed or differed.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xla_flags
from safetensors.numpy import load_file
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
DEVICES = 8
PATIENCE = 300  # seconds for a small run to end on a machine with two busy cores


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(arguments: list[str], count: int) -> list[subprocess.Popen]:
    """The training command in `count` processes, which leave no compiled programs in a person's home."""
    return start_command(
        "mpo_jax.train", [*arguments, "--config.compilation_cache=", "--config.data.cache="], count, "--config.hosts"
    )


def start_command(module: str, arguments: list[str], count: int, hosts: str) -> list[subprocess.Popen]:
    """A command in `count` processes, which share the devices. `hosts`: how its options for them begin."""
    port = free_port()
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": xla_flags.devices(DEVICES // count),
    }
    command = [sys.executable, "-m", module, *arguments]
    meet = [f"{hosts}.coordinator=127.0.0.1:{port}", f"{hosts}.count={count}"] if count > 1 else []
    return [
        subprocess.Popen(
            [*command, *meet, *([f"{hosts}.index={i}"] if meet else [])],
            env=env,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(count)
    ]


def finish(processes: list[subprocess.Popen], patience: float = PATIENCE) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each."""
    ends = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=patience)
            ends.append((process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return ends


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: w for path in sorted(folder.glob("*.safetensors")) for name, w in load_file(path).items()}


def largest_difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    return max(float(np.abs(a[name].astype(np.float32) - b[name].astype(np.float32)).max()) for name in a)


def main() -> None:
    from objectives import SETTINGS, difference  # what is compared, and with which optimiser
    from world import metrics

    from mpo_jax.files.hub import resolve
    from mpo_jax.training.config import parse

    before = weights(resolve(parse(sys.argv[1:]).model))
    settings = [f"--config.{setting}" for setting in (*SETTINGS, "export.enabled=True", "export.dtype=float32")]
    lines, well = [], True
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "1"
        for count in tqdm((1, 2, 4)):
            run, began = Path(folder) / str(count), time.monotonic()
            ends = finish(start([*sys.argv[1:], *settings, f"--config.output={run}"], count), patience=3600)
            if any(code for code, _, _ in ends):
                sys.exit("\n".join(f"code {code}: {err[-4000:]}" for code, _, err in ends))
            worst, where = max(difference(a, b) for a, b in zip(metrics(first), metrics(run), strict=True))
            moved, apart = (largest_difference(weights(first / "export"), other) for other in (before, weights(run / "export")))
            well &= worst <= 1 and apart < moved / 100
            lines.append(f"| {count} | {time.monotonic() - began:.0f} | {worst:.1e} ({where}) | {moved:.1e} | {apart:.1e} |")
    header = ["processes", "s", "metrics, part of what is allowed", "weights moved by", "and differ by"]
    print("\n".join([f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *lines]))
    sys.exit(not well)


if __name__ == "__main__":
    main()
