"""Is the table of a command that is killed again and again that of an undisturbed one, and is nothing asked twice?

    python tests/safety_campaign.py [--limit 315] [--kills 10] [--languages en,zh,ko,ar,bn,sw]

MultiJail and a Llama tokenizer from the folder of real data beside the checkout; the model is small and random. A first command
asks a judge and a translator on this machine and records them; a second one, killed at random moments, replays the recording. The
exit code is 1 if the tables differ in a byte, or if anything was asked twice.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import make_small
from fake_clients import say
from fake_endpoint import MODEL, served

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
TOKENS = "16"  # of an answer
STARTS = 8  # seconds until the first line, about


def command(model: Path, output: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "mpo_jax.safety", "--model", str(model), "--output", str(output), "--template", "hf"),
        *("--prompts", str(SHARED / "multijail" / "MultiJail.csv"), "--dtype", "float32", "--max-new-tokens", TOKENS),
        *("--judge", "deng", "--judge-model", MODEL, "--translate", "server", "--translate-model", MODEL, *more),
    ]


def environment() -> dict[str, str]:
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def run(arguments: list[str]) -> float:
    began = time.monotonic()
    done = subprocess.run(arguments, env=environment(), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    print(done.stdout, flush=True)
    return time.monotonic() - began


def lines(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.read_bytes().count(b"\n") for path in folder.rglob("responses.jsonl")}


def killed(arguments: list[str], folder: Path, after: float) -> bool:
    """Whether the command was killed, `after` seconds from its first new line in the folder, before it ended by itself."""
    there = lines(folder)
    process = subprocess.Popen(arguments, env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and lines(folder) == there:
        time.sleep(0.05)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def campaign(folder: Path, limit: int, kills: int, languages: str, seed: int) -> bool:
    make_small.make("llama", SHARED / "tokenizers" / "llama-3.1-8b-instruct", folder / "model", vocab=128256)
    which = ["--limit", str(limit), "--languages", languages]
    with served(say) as endpoint:
        servers = [part for kind in ("judge", "translate") for part in (f"--{kind}-server", endpoint.url)]
        recording = ["--record", str(folder / "recording.jsonl")]
        seconds = run(command(folder / "model", folder / "whole", *which, *servers, *recording)) - STARTS
        asked = Counter(one.text for one in endpoint.asked)
    replay = command(folder / "model", folder / "killed", *which, "--replay", str(folder / "recording.jsonl"))
    times, done, chance = 0, False, random.Random(seed)
    while times < kills and not done:
        after = chance.uniform(0, 1.2) * seconds / kills
        done = not killed(replay, folder / "killed", after)
        times += not done
        print(
            "it ended by itself" if done else f"killed {after:.1f} s after its first line: {lines(folder / 'killed')}", flush=True
        )
    run(replay)
    whole, again = ((folder / name / "asr.json").read_bytes() for name in ("whole", "killed"))
    twice = sum(count > 1 for text, count in asked.items())
    print(
        f"{sum(asked.values())} requests, {twice} of them twice; {times} kills; tables {'equal' if whole == again else 'differ'}"
    )
    return whole == again and not twice


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=315)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--languages", default="en,zh,ko,ar,bn,sw")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(not campaign(Path(temporary), args.limit, args.kills, args.languages, args.seed))
