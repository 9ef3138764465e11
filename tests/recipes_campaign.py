"""Are the rows of a build that is killed again and again those of an undisturbed one, for every recipe?

    python tests/recipes_campaign.py [--recipes on_policy,icr] [--limit 100] [--kills 2]

The authors' dominant prompts and a Llama tokenizer, from the folder of real data beside the checkout. The model is small and
random: where a recipe needs refusals or closing tags the server of `recipe_voices` answers, which translates, judges and scores
everywhere. The exit code is 1 if rows, origins, drops or audits differ in a byte.
"""

import argparse
import functools
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

from mpo_jax.data.chat import load_tokenizer
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


def started(words: Sequence[str], out: int = subprocess.PIPE) -> subprocess.Popen[str]:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mpo_jax.build", *words]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=out, stderr=out, text=True)


def whole(words: Sequence[str]) -> tuple[float, str]:
    """(seconds, what was printed)."""
    began, process = time.monotonic(), started(words)
    said, errors = process.communicate()
    if process.returncode:
        sys.exit(errors[-4000:])
    return time.monotonic() - began, said


def lines(folder: Path) -> dict[str, int]:
    """Of every file that grows."""
    found = [*folder.rglob("responses.jsonl"), *(folder / "scores").glob("*.jsonl")]
    return {str(path.relative_to(folder)): path.read_bytes().count(b"\n") for path in sorted(found)}


def killed(words: Sequence[str], folder: Path, file: str, count: int) -> bool:
    """Whether the command was killed when that file had so many lines, before it ended by itself."""
    process = started(words, subprocess.DEVNULL)
    while process.poll() is None:
        if lines(folder).get(file, 0) >= count:
            process.kill()
            process.wait()
            return True
        time.sleep(0.01)
    return False


def campaign(folder: Path, recipe: str, limit: int, kills: int, dice: random.Random) -> bool:
    prompts, out = SHARED / "mpo" / "llama_mpo_data.json", folder / f"{recipe}-killed"
    with served(recipe_voices.say) as endpoint:
        more = [*options(recipe, folder, endpoint.url), "--limit", str(limit)]
        seconds, said = whole(arguments(recipe, prompts, folder / recipe, *more))
        asked, words = len(endpoint.asked), arguments(recipe, prompts, out, *more)
        plan = [(file, sorted(dice.randint(1, count) for _ in range(kills))) for file, count in lines(folder / recipe).items()]
        hit = [file for file, counts in plan for count in counts if killed(words, out, file, count)]
        whole(words)
        twice = len(endpoint.asked) - 2 * asked
    equal = rows(folder / recipe) == rows(out)
    places = ", ".join(
        f"{hit.count(file)} in {Path(file).parent if 'scores' not in file else file}" for file in dict.fromkeys(hit)
    )
    print(
        f"{recipe}: {seconds:.0f} s; {len(hit)} kills ({places}); {asked} requests, and {twice} more for what was under way; "
        f"files {'equal' if equal else 'DIFFER'}; {said.partition('rows: ')[2].splitlines()[0]}",
        flush=True,
    )
    return equal


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--kills", type=int, default=2, help="in each file that grows")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(temporary)
        make_small.make("llama", SHARED / "tokenizers" / "llama-3.1-8b-instruct", where / "model", vocab=128256)
        other_model(where, where / "other")
        recipe_voices.tokenizer = functools.cache(lambda: load_tokenizer(where / "model"))  # what is rendered here comes as ids
        dice = random.Random(args.seed)
        done = [campaign(where, recipe, args.limit, args.kills, dice) for recipe in args.recipes.split(",")]
        sys.exit(not all(done))
