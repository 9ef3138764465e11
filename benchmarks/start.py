"""How long does a run wait for its rows, the first time and again, when is their audit there, and how much memory does it take?

    JAX_PLATFORMS=cpu python benchmarks/start.py --data FILE --tokenizer DIR [--rows 6000 100000] [--distinct] [--unnamed]
        [--before CHECKOUT]

The rows of FILE (as `data.rows` reads them) are repeated to so many, with their languages named; `--distinct` ends each text with
the number of its copy, so that no pair of texts occurs twice in one language; `--unnamed` leaves out the languages. Each
measurement is a process of its own: `cold` with an empty cache, then `warm`. Ready means that there is all that a run waits for:
rows, tokens and shapes, the rows' identity, and the first batch, packed. The audit, which a run makes beside its training, begins
then; `audited_s` is when it is there. `--before` measures the same in another checkout, whose runs may wait for the audit.

Beside it stands the tokenizer by itself: its `encode_batch` over all texts, on all cores, of up to 6,000 of the rows. Times are
wall and CPU seconds (user and system, of all threads); memory is the most that a process held, with and without the pages of
files that are mapped.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
ALONE = 6000  # rows for the tokenizer by itself


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--tokenizer", required=True, type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[6000])
    parser.add_argument("--distinct", action="store_true")
    parser.add_argument("--unnamed", action="store_true")
    parser.add_argument("--before", type=Path)
    parser.add_argument("--scratch", type=Path, help="a folder for rows and cache (default: one that is removed)")
    parser.add_argument("--child", choices=("write", "ready", "alone"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        CHILDREN[args.child](args)
        return
    with contextlib.ExitStack() as owned:
        folder = args.scratch or Path(owned.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for count in args.rows:
            measure(args, count, folder)


def measure(args: argparse.Namespace, count: int, folder: Path) -> None:
    """Prints a line of JSON for each measurement at one number of rows."""
    file = folder / f"{count}.jsonl"
    options = ["--data", str(args.data), "--tokenizer", str(args.tokenizer), "--rows", str(count), "--scratch", str(folder)]
    options += [f"--{name}" for name in ("distinct", "unnamed") if getattr(args, name)]
    now = HERE.parent.parent
    _process(now, [*options, "--child", "write"])
    print(json.dumps({"rows": count, "bytes": file.stat().st_size, "distinct": args.distinct, "named": not args.unnamed}))
    print("alone", _process(now, [*options, "--child", "alone"]), flush=True)
    for when in ("cold", "warm"):
        print(when, _process(now, [*options, "--child", "ready"]), flush=True)
    if args.before is not None:
        print("before", _process(args.before.resolve(), [*options, "--child", "ready"]), flush=True)
    file.unlink()


def _process(checkout: Path, options: list[str]) -> str:
    """What a process in a checkout prints last, with its times and memory."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, str(HERE), *options], env=environment, cwd=checkout, stdout=subprocess.PIPE, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    took = {"process_s": round(time.monotonic() - begun, 2), "process_cpu_s": round(cpu, 2)}
    return json.dumps(json.loads(done.stdout.splitlines()[-1]) | took)


def write(args: argparse.Namespace) -> None:
    from mpo_jax.data.rows import read_rows

    rows = read_rows(args.data, allow_empty_prompt=True)
    (count,) = args.rows
    with (args.scratch / f"{count}.jsonl").open("w", encoding="utf-8") as file:
        for i in range(count):
            row, copy = rows[i % len(rows)], i // len(rows)
            end = f" {copy}.{i % len(rows)}" if args.distinct else ""
            value: dict[str, Any] = {}
            for side, pair in (("source", row.source), ("target", row.target)):
                if pair is not None:
                    texts = {key: text + end for key, text in dataclasses.asdict(pair).items() if key != "language"}
                    value[side] = texts if args.unnamed else {"language": pair.language, **texts}
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
    print(json.dumps({}))


def ready(args: argparse.Namespace) -> None:
    """Uses only what other checkouts have too."""
    from mpo_jax import losses
    from mpo_jax.data.dataset import Batching, Data, DataConfig, prepare
    from mpo_jax.training import run_identity

    (count,) = args.rows
    settings: dict[str, Any] = {"path": str(args.scratch / f"{count}.jsonl"), "template": "hf", "allow_empty_prompt": True}
    if "cache" in DataConfig.__dataclass_fields__:
        settings["cache"] = str(args.scratch / f"cache-{count}")
    loss = losses.Mpo()
    times, most = {}, _Peak()

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun = time.monotonic()
        made = work()
        times[f"{name}_s"] = round(time.monotonic() - begun, 2)
        return made

    with most:
        batching = Batching(8, loss.policy_reads, loss.reference_reads, epochs=2)
        data = timed("tokens", lambda: prepare(DataConfig(**settings), args.tokenizer, None, batching))
        timed("first_batch", lambda: data.train.batch_at(0))
        timed("identity", lambda: getattr(run_identity, "_contents", lambda pipeline: pipeline.contents)(data.train))
        timed("late_tokens", lambda: data.train.tokens_before(data.train.steps - 1))
        waits = isinstance(Data.findings, functools.cached_property)
        ready = sum(times.values())
        timed("audit", lambda: data.findings if waits else data.findings())
    audited = sum(times.values())
    ready = audited if waits else ready
    when = {"ready_s": round(ready, 2), "rows_per_s": round(count / ready), "audited_s": round(audited, 2)}
    memory = {"own_mib": most.own, "with_files_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    print(json.dumps(times | when | memory))


class _Peak:
    """Owns a thread that watches the memory of this process that no file backs, in MiB."""

    def __init__(self):
        self.own, self._ends = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.wait(0.1):
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            held = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            self.own = max(self.own, held // 1024)


def alone(args: argparse.Namespace) -> None:
    from mpo_jax.data.chat import load_tokenizer

    core = load_tokenizer(args.tokenizer).backend_tokenizer
    (count,) = args.rows
    with (args.scratch / f"{count}.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(ALONE), strict=False)]
    texts = [row[side][key] for row in rows for side in row for key in ("prompt", "chosen", "rejected")]
    core.encode_batch(texts[:60], add_special_tokens=False)
    begun, cpu = time.monotonic(), time.process_time()
    for start in range(0, len(texts), 3072):
        core.encode_batch(texts[start : start + 3072], add_special_tokens=False)
    took = time.monotonic() - begun
    cpu = time.process_time() - cpu
    per_row = {"rows_per_s": round(len(rows) / took), "cpu_ms_per_row": round(1000 * cpu / len(rows), 3)}
    print(json.dumps({"encode_batch_s": round(took, 2), **per_row}))


CHILDREN = {"write": write, "ready": ready, "alone": alone}

if __name__ == "__main__":
    main()
