"""Which method transfers the dominant language's alignment to the other languages? The paper's question, in a small world.

    JAX_PLATFORMS=cpu python -m mpo_jax.experiments.transfer
        [--seeds 5] [--methods mpo,dpo] [--noise 0,0.2] [--flips 0,0.1] [--out FOLDER]

For each seed a world of seven languages is drawn and a base model is trained from scratch, aligned in the dominant language only.
Each method trains it on the same preference data and is measured on held-out requests (docs/experiments.md). The same command
gives the same numbers.
"""

import dataclasses
import difflib
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
from tqdm import tqdm

from mpo_jax.data.chat import Example
from mpo_jax.errors import InputError, one_sentence
from mpo_jax.experiments.base import UPDATES, base_of
from mpo_jax.experiments.command_line import folder_of, study_parser
from mpo_jax.experiments.learning import Train, make_train, order_of, stacked
from mpo_jax.experiments.measuring import REQUESTS, Measure, make_measure
from mpo_jax.experiments.methods import METHODS, SWEPT, Method
from mpo_jax.experiments.probing import probe
from mpo_jax.experiments.results import BASE, Run, balance, markdown, plot
from mpo_jax.experiments.side_by_side import shown
from mpo_jax.experiments.world import Noise, World, preference_rows
from mpo_jax.experiments.writing import Write, make_engine, make_write
from mpo_jax.files.json_files import write_json
from mpo_jax.files.paths import write
from mpo_jax.generation.engine import Engine
from mpo_jax.losses.lens import Lens
from mpo_jax.reporting.page import NAME as PAGE
from mpo_jax.reporting.page import write_page
from mpo_jax.training.optim import OptimConfig
from mpo_jax.types import Batch, Params

VALIDATION = 1000  # the seed on which learning rates are chosen; it is not reported
BATCH, EPOCHS = 8, 2  # the paper's
COST_OF_A_BASE = 20  # for the progress bar: training a base model takes as long as this many runs


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared: `methods` on `seeds` without noise, and those in `swept` also under each of `noises`. `prompts`: number
    of dominant pairs in the preference data. `requests`: number of held-out requests of each kind."""

    methods: Sequence[str]
    swept: Sequence[str]
    seeds: int
    noises: Sequence[Noise]
    prompts: int = 100
    requests: int = REQUESTS
    base_updates: int = UPDATES

    def noises_of(self, method: str) -> Sequence[Noise]:
        return self.noises if method in self.swept else self.noises[:1]

    @property
    def runs(self) -> int:
        return sum(self.seeds * len(self.noises_of(name)) + len(METHODS[name].grid) for name in self.methods)


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A seed's world and base model, and what is measured of its models: likelihoods, and what they write."""

    seed: int
    world: World
    base: Params
    measure: Measure
    write: Write

    def likelihoods(self, params: Params) -> dict[str, float]:
        return self.measure(params, self.base)

    def values(self, params: Params) -> dict[str, float]:
        return self.likelihoods(params) | self.write(params)


def main(argv: list[str] | None = None) -> None:
    with one_sentence():
        study, folder = parse(sys.argv[1:] if argv is None else argv)
        runs = carry_out(study, folder)
        tables = markdown(runs)
        (folder / "tables.md").write_text(tables, encoding="utf-8")
        plot(runs, folder)
        write_page(folder / PAGE, shown(runs))
        print(f"\n{tables}\nin {folder}: results.json, tables.md, {PAGE} and plots")


def carry_out(study: Study, folder: Path) -> list[Run]:
    """Does all runs. `folder` keeps the base models and, after each method, results.json: the runs so far, and the balance at
    each learning rate of a method's grid on the validation seed."""
    engine = make_engine(study.requests)
    with tqdm(total=study.runs + COST_OF_A_BASE * (study.seeds + 1), unit="run", mininterval=1.0) as bar:
        validation, *reported = (subject_of(study, seed, folder, engine, bar) for seed in (VALIDATION, *range(study.seeds)))
        runs = [Run(BASE, one.seed, study.noises[0], 0.0, one.values(one.base)) for one in reported]
        grids = {}
        for name in study.methods:
            bar.set_description(name)
            found, grids[name] = _of_method(study, name, validation, reported, folder, bar)
            runs += found
            kept = {"study": dataclasses.asdict(study), "grids": grids, "runs": [dataclasses.asdict(run) for run in runs]}
            write_json(folder / "results.json", kept)
    return runs


def subject_of(study: Study, seed: int, folder: Path, engine: Engine, bar: tqdm) -> Subject:
    """`folder` keeps the base model."""
    bar.set_description(f"base model of seed {seed}")
    world, base = base_of(seed, folder / "bases", study.base_updates)
    bar.update(COST_OF_A_BASE)
    measure = make_measure(world, seed, study.requests)
    return Subject(seed, world, base, measure, make_write(world, seed, study.requests, engine))


def rates_tried(
    study: Study, method: Method, train: Train, validation: Subject, done: Callable[[], object]
) -> tuple[float, dict[float, float]]:
    """(the best rate of a method's grid, rate -> the balance on the validation seed, without noise). `done` hears of each run."""
    grid, batches = {}, data(study, method, validation, study.noises[0])
    for lr in method.grid:
        grid[lr] = balance(validation.likelihoods(train(validation.base, jnp.float32(lr), batches)))
        done()
    return max(grid, key=lambda lr: grid[lr]), grid


def training(method: Method, prompts: int, folder: Path) -> Callable[[Subject], Train]:
    """One program for all seeds; or one for each, of the languages in its base model, where the method reads a probe of them.
    `prompts`: of how many requests in each language the probe is made. `folder` keeps it."""
    optim = OptimConfig()
    loss = method.loss
    if not isinstance(loss, Lens):
        train = make_train(loss, optim, method.frozen)
        return lambda subject: train

    @functools.cache
    def of_seed(subject: Subject) -> Train:
        path = folder / "probes" / f"probe_{subject.seed}.safetensors"
        path.parent.mkdir(exist_ok=True)
        write(path, probe(subject.world, subject.base, subject.seed, prompts).encoded())
        return make_train(dataclasses.replace(loss, probe=str(path)), optim, method.frozen)

    return of_seed


def _of_method(
    study: Study, name: str, validation: Subject, reported: Sequence[Subject], folder: Path, bar: tqdm
) -> tuple[list[Run], dict[str, float]]:
    method = METHODS[name]
    train_of = training(method, study.prompts, folder)
    best, grid = rates_tried(study, method, train_of(validation), validation, bar.update)
    found = []
    for noise in study.noises_of(name):
        for subject in reported:
            params = train_of(subject)(subject.base, jnp.float32(best), data(study, method, subject, noise))
            found.append(Run(name, subject.seed, noise, best, subject.values(params)))
            bar.update()
    return found, {f"{lr:g}": score for lr, score in grid.items()}


def data(study: Study, method: Method, subject: Subject, noise: Noise) -> Batch:
    """The batches of all updates."""
    return batches_of(method, preference_rows(subject.world, subject.seed, study.prompts, noise), subject.seed)


def batches_of(method: Method, parallel: Sequence[Example], seed: int) -> Batch:
    """The batches of all updates on parallel rows."""
    rows, group = method.rows(parallel), method.group
    order = order_of(rows, max(1, BATCH // group) * group, EPOCHS, seed, group)  # 6 rows where a prompt has 6
    return stacked(rows, order, method.loss.policy_reads, method.loss.reference_reads, group)


def parse(argv: list[str]) -> tuple[Study, Path]:
    """Errors: an unknown method, shares that are not shares, no seed."""
    about = "Compares methods in a small world of seven languages, with models trained from scratch on a CPU."
    parser = study_parser("transfer", about)
    parser.add_argument("--methods", help="names separated by commas (default: all in mpo_jax/experiments/methods.py)")
    words = "shares of wrong words on the target side, separated by commas, 0 first (default: %(default)s)"
    parser.add_argument("--noise", default="0,0.2,0.4", help=words)
    flips = "shares of target pairs with exchanged answers, separated by commas, 0 first (default: %(default)s)"
    parser.add_argument("--flips", default="0,0.1,0.2", help=flips)
    given = parser.parse_args(argv)
    methods = given.methods.split(",") if given.methods else list(METHODS)
    for name in methods:
        if name not in METHODS:
            near = difflib.get_close_matches(name, METHODS, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"write some of {', '.join(METHODS)}."
            raise InputError(f"--methods={given.methods}: there is no method '{name}'; {hint}")
    words, flips = (_shares(name, getattr(given, name)) for name in ("noise", "flips"))
    noises = [Noise(), *(Noise(words=x) for x in words[1:]), *(Noise(flips=x) for x in flips[1:])]
    return Study(methods, methods if given.methods else SWEPT, given.seeds, noises), folder_of(given)


def _shares(name: str, text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if not shares or shares[0] != 0 or len(set(shares)) < len(shares) or not all(0 <= share <= 1 for share in shares):
        raise InputError(f"--{name}={text}: write distinct shares from 0 to 1, separated by commas, 0 first, as in 0,0.2.")
    return shares


if __name__ == "__main__":
    main()
