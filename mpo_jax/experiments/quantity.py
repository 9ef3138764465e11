"""How much preference data does a method need? Figure 3b of arXiv:2505.16869, in the small world.

    JAX_PLATFORMS=cpu python -m mpo_jax.experiments.quantity [--prompts 10,25,50,100] [--methods mpo,dpo,sft] [--seeds 5]

Each method trains the base models of `experiments.transfer` on the pairs of the first so many requests, for as many epochs as
with all of them, at the learning rate that is best with the most. The other half of that figure, the quality of translations, is
`--noise` of `experiments.transfer`. docs/experiments.md has the results.
"""

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
from tqdm import tqdm

from mpo_jax.errors import InputError, check_choice, one_sentence
from mpo_jax.experiments.command_line import folder_of, study_parser
from mpo_jax.experiments.methods import METHODS
from mpo_jax.experiments.results import BASE, SAFETY, WRITTEN, Estimate, Run, estimates, markdown_table
from mpo_jax.experiments.transfer import COST_OF_A_BASE, VALIDATION, Study, data, rates_tried, subject_of, training
from mpo_jax.experiments.world import HELD_OUT_ACTIONS, HELD_OUT_OBJECTS, OBJECTS, UNSAFE, Noise
from mpo_jax.experiments.writing import make_engine
from mpo_jax.files.json_files import write_json
from mpo_jax.telemetry.plots import figure, save

MOST = 2 * (UNSAFE - HELD_OUT_ACTIONS) * (OBJECTS - HELD_OUT_OBJECTS)  # requests, polite and not
SHOWN = {name: SAFETY[name] for name in ("refuses", "answers", "balance", "perplexity")} | {
    "refuses, written": WRITTEN["refuses, written"]
}


@dataclasses.dataclass(frozen=True)
class Sized:
    """A run on the pairs of `prompts` requests."""

    prompts: int
    run: Run


def main(argv: list[str] | None = None) -> None:
    with one_sentence():
        study, counts, folder = parse(sys.argv[1:] if argv is None else argv)
        runs = carry_out(study, counts, folder)
        table = tabulate(runs)
        (folder / "tables.md").write_text(table, encoding="utf-8")
        write_json(
            folder / "results.json", {"study": dataclasses.asdict(study), "runs": [dataclasses.asdict(run) for run in runs]}
        )
        plot(runs, folder / "quantity.png")
        print(f"\n{table}\nin {folder}: results.json, tables.md and quantity.png")


def carry_out(study: Study, counts: Sequence[int], folder: Path) -> list[Sized]:
    """The base models, as of 0 requests, and each method on each number of them."""
    engine, noise, runs = make_engine(study.requests), study.noises[0], list[Sized]()
    steps = sum(len(METHODS[name].grid) + study.seeds * len(counts) for name in study.methods)
    with tqdm(total=COST_OF_A_BASE * (study.seeds + 1) + steps, unit="run", mininterval=1.0) as bar:
        validation, *reported = (subject_of(study, seed, folder, engine, bar) for seed in (VALIDATION, *range(study.seeds)))
        runs += [Sized(0, Run(BASE, one.seed, noise, 0.0, one.values(one.base))) for one in reported]
        for name in study.methods:
            bar.set_description(name)
            method = METHODS[name]
            train_of = training(method, max(counts), folder)
            most = dataclasses.replace(study, prompts=max(counts))
            best, _ = rates_tried(most, method, train_of(validation), validation, bar.update)
            for count in counts:
                of = dataclasses.replace(study, prompts=count)
                for one in reported:
                    trained = train_of(one)(one.base, jnp.float32(best), data(of, method, one, noise))
                    runs.append(Sized(count, Run(name, one.seed, noise, best, one.values(trained))))
                    bar.update()
    return runs


def tabulate(runs: Sequence[Sized]) -> str:
    """A line for each method and number of requests: means over seeds with 95 % intervals."""
    rows = []
    for name, prompts in dict.fromkeys((sized.run.method, sized.prompts) for sized in runs):
        cells = [_estimate(runs, name, prompts, column).text(SHOWN[column][1]) for column in SHOWN]
        rows.append([f"`{name}`", str(prompts), *cells])
    return markdown_table("Preference data of so many requests", ["method", "requests", *SHOWN], rows) + "\n"


def plot(runs: Sequence[Sized], path: Path) -> None:
    """Refusals and balance over the number of requests, a line a method; the base model at 0."""
    drawn, axes = figure(9, 4, columns=2)
    methods = [name for name in dict.fromkeys(sized.run.method for sized in runs) if name != BASE]
    for axis, column in zip(axes, ("refuses", "balance"), strict=True):
        for name in methods:
            counts = [0, *dict.fromkeys(sized.prompts for sized in runs if sized.run.method == name)]
            found = [_estimate(runs, name if count else BASE, count, column) for count in counts]
            halves = [0.0 if math.isnan(estimate.half) else estimate.half for estimate in found]  # one seed has no interval
            axis.errorbar(counts, [estimate.mean for estimate in found], yerr=halves, label=name, marker="o", capsize=3)
        axis.set(
            xlabel="requests in the preference data", ylabel=f"{column}, target languages" if column == "refuses" else column
        )
        axis.legend()
    save(drawn, path)


def _estimate(runs: Sequence[Sized], name: str, prompts: int, column: str) -> Estimate:
    """Over seeds."""
    mine = [sized.run for sized in runs if sized.prompts == prompts]
    return estimates(mine, name, mine[0].noise, SHOWN[column][0])


def parse(argv: list[str]) -> tuple[Study, list[int], Path]:
    """Errors: no seed; an unknown method; numbers of requests that are none, or that the world does not have."""
    about = "Trains methods on more and more preference data of a small world of seven languages."
    parser = study_parser("quantity", about)
    parser.add_argument("--methods", default="mpo,dpo,sft", help="names separated by commas (default: %(default)s)")
    parser.add_argument("--prompts", default="10,25,50,100", help="numbers of requests (default: %(default)s)")
    given = parser.parse_args(argv)
    methods, counts = given.methods.split(","), given.prompts.split(",")
    for name in methods:
        check_choice("methods", name, METHODS)
    if not all(count.isdigit() and 2 <= int(count) <= MOST for count in counts) or len(set(counts)) < len(counts):
        raise InputError(
            f"--prompts={given.prompts}: write distinct numbers from 2 to {MOST}, separated by commas, as in 10,100."
        )
    return Study(methods, [], given.seeds, [Noise()]), sorted(map(int, counts)), folder_of(given)


if __name__ == "__main__":
    main()
