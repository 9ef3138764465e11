"""Are the rows of a build that is killed again and again those of an undisturbed one, for every recipe?

    python tests/recipes_campaign.py [--recipes on_policy,icr] [--limit 100] [--kills 6]

The authors' dominant prompts and a Llama tokenizer, from the folder of real data beside the checkout. The model is small and
random: where a recipe needs refusals or closing tags the server of `recipe_voices` answers, which translates, judges and scores
everywhere. The exit code is 1 if rows, origins, drops or audits differ in a byte.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import make_small
import recipe_voices
from fake_endpoint import MODEL, served
from recipe_runs import arguments, other_model, rows, voices

from mpo_jax.recipes.registry import RECIPES

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


def options(recipe: str, folder: Path, url: str) -> list[str]:
    others = ["--translate", "server", "--translate-model", MODEL, "--translate-server", url]
    engine = [*others, "--model", str(folder / "model"), "--dtype", "float32", "--max-new-tokens", "8"]
    return {
        "on_policy": [*voices(url), "--chat"],
        "lidr": [*voices(url), "--model", str(folder / "model")],
        "icr": [*engine, "--samples", "2", "--denominator", str(folder / "other")],
        "mapo": [*engine, "--samples", "2", "--scorer-model", MODEL, "--scorer-server", url],
        "sdrrl": engine,
    }[recipe]


def started(words: Sequence[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mpo_jax.build", *words]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def whole(words: Sequence[str]) -> tuple[float, str]:
    """(seconds, what was printed)."""
    began, process = time.monotonic(), started(words)
    said, errors = process.communicate()
    if process.returncode:
        sys.exit(errors[-4000:])
    return time.monotonic() - began, said


def killed(words: Sequence[str], after: float) -> bool:
    """Whether the command was killed before it ended by itself."""
    process = started(words)
    try:
        process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    return False


def campaign(folder: Path, recipe: str, limit: int, kills: int, dice: random.Random) -> bool:
    prompts = SHARED / "mpo" / "llama_mpo_data.json"
    with served(recipe_voices.say) as endpoint:
        more = [*options(recipe, folder, endpoint.url), "--limit", str(limit)]
        seconds, said = whole(arguments(recipe, prompts, folder / recipe, *more))
        asked, times = len(endpoint.asked), 0
        words = arguments(recipe, prompts, folder / f"{recipe}-killed", *more)
        stages = [line.partition(":")[0] for line in said.splitlines() if not line.startswith(" ")]
        while times < kills and killed(words, dice.uniform(0.15, 0.6) * seconds):
            times += 1
        whole(words)
        twice = len(endpoint.asked) - 2 * asked
    equal = rows(folder / recipe) == rows(folder / f"{recipe}-killed")
    print(
        f"{recipe}: {seconds:.0f} s, stages {', '.join(dict.fromkeys(stages))}; {times} kills, {asked} requests and {twice} more "
        f"for what was under way; files {'equal' if equal else 'DIFFER'}; {said.partition('rows: ')[2].splitlines()[0]}",
        flush=True,
    )
    return equal


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(temporary)
        make_small.make("llama", SHARED / "tokenizers" / "llama-3.1-8b-instruct", where / "model", vocab=128256)
        other_model(where, where / "other")
        dice = random.Random(args.seed)
        done = [campaign(where, recipe, args.limit, args.kills, dice) for recipe in args.recipes.split(",")]
        sys.exit(not all(done))
