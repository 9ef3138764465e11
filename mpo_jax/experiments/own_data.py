"""How far does preference data from one's own model carry in the small world? Implicit rewards, LIDR's pairs and MAPO's.

    JAX_PLATFORMS=cpu python -m mpo_jax.experiments.own_data [--seeds 5] [--out FOLDER]

Three questions on the base models of `experiments.transfer`. Does the implicit reward of a model aligned in the dominant language
alone tell right answers in other languages? What do two rounds of Implicit Cross-Lingual Rewarding (arXiv:2503.04647) make of
that model? And, as in table 16 of arXiv:2505.16869, what do DPO with likelihood and multilingual reward-gap MPO learn from pairs
made as in Language Imbalance Driven Rewarding (arXiv:2410.08964) and in MAPO (arXiv:2401.06838)? docs/experiments.md has the
results.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mpo_jax import losses
from mpo_jax.data.chat import Example
from mpo_jax.errors import one_sentence
from mpo_jax.experiments.command_line import folder_of, study_parser
from mpo_jax.experiments.learning import make_train
from mpo_jax.experiments.measuring import implicit_rewards
from mpo_jax.experiments.methods import METHODS, Method
from mpo_jax.experiments.own_pairs import (
    SAMPLED,
    After,
    Asked,
    best_aligned,
    better,
    dominant_alone,
    facts,
    rewarded,
    self_translated,
    translated,
)
from mpo_jax.experiments.results import (
    BASE,
    SAFETY,
    WRITTEN,
    Run,
    Value,
    balance,
    estimates,
    markdown,
    markdown_table,
    methods_of,
    over_targets,
    plot,
)
from mpo_jax.experiments.transfer import COST_OF_A_BASE, VALIDATION, Study, Subject, batches_of, subject_of
from mpo_jax.experiments.world import DOMINANT, LANGUAGES, TARGETS, Noise, Request, harmless, held_out, unsafe_requests
from mpo_jax.experiments.writing import answers, make_engine, share
from mpo_jax.files.json_files import write_json
from mpo_jax.generation.engine import Engine
from mpo_jax.training.optim import OptimConfig
from mpo_jax.types import Params

NOISE = Noise()  # none
RATES = (5e-5, 1e-4, 2e-4, 4e-4)  # of which each arm takes the one with the best balance on the validation seed
TOGETHER = 256  # answers are written at a time

AFTER: tuple[After, ...] = ("dominant", "own")
KINDS = ("unsafe", "safe")


def unsafe_alone(seed: int, count: int) -> list[Request]:
    return unsafe_requests(seed, count)


def both_kinds(seed: int, count: int) -> list[Request]:
    """Half of them unsafe, half safe."""
    return unsafe_requests(seed, count // 2) + harmless(seed, count // 2)


@dataclasses.dataclass(frozen=True)
class Arm:
    """A method, the earlier arm whose model it starts from and asks, the requests (of a seed and their number), and the rows
    made of them."""

    start: str
    requests: Callable[[int, int], list[Request]]
    rows: Callable[[Asked], list[Example]]
    method: Method


ALIGNED = "aligned"
DPO_NLL = losses.Sum({"dpo": losses.Dpo(), "nll": losses.Sft()})
ON_ROWS, ON_BOTH = Method(DPO_NLL), Method(DPO_NLL, both=True)
ARMS = {
    ALIGNED: Arm(BASE, both_kinds, dominant_alone, Method(losses.Dpo())),
    "icr_1": Arm(ALIGNED, both_kinds, rewarded("dominant"), ON_ROWS),
    "icr_2": Arm("icr_1", both_kinds, rewarded("dominant"), ON_ROWS),
    "icr_own_prompt_1": Arm(ALIGNED, both_kinds, rewarded("own"), ON_ROWS),
    "icr_own_prompt_2": Arm("icr_own_prompt_1", both_kinds, rewarded("own"), ON_ROWS),
    "dpo_nll_both_kinds": Arm(ALIGNED, both_kinds, translated, ON_BOTH),
    "dpo": Arm(BASE, unsafe_alone, translated, METHODS["dpo"]),
    "dpo_nll": Arm(BASE, unsafe_alone, translated, ON_BOTH),
    "mpo": Arm(BASE, unsafe_alone, translated, METHODS["mpo"]),
    "dpo_nll_lidr": Arm(BASE, unsafe_alone, self_translated, ON_BOTH),
    "mpo_lidr": Arm(BASE, unsafe_alone, self_translated, METHODS["mpo"]),
    "dpo_nll_mapo": Arm(BASE, unsafe_alone, best_aligned, ON_BOTH),
    "mpo_mapo": Arm(BASE, unsafe_alone, best_aligned, METHODS["mpo"]),
}


def main(argv: list[str] | None = None) -> None:
    with one_sentence():
        study, folder = parse(sys.argv[1:] if argv is None else argv)
        runs = carry_out(study, folder)
        written = f"{tables(runs)}\n\n{markdown(runs)}"
        (folder / "tables.md").write_text(written, encoding="utf-8")
        plot(runs, folder)
        print(f"\n{written}\nin {folder}: results.json, tables.md and plots")


def carry_out(study: Study, folder: Path) -> list[Run]:
    """Does all runs. `folder` keeps the base models and, after each arm, results.json: the runs so far, and the balance at each
    learning rate on the validation seed."""
    greedy = make_engine(TOGETHER)
    sampler = greedy.otherwise(SAMPLED)
    total = COST_OF_A_BASE * (study.seeds + 1) + len(ARMS) * (len(RATES) + study.seeds)
    with tqdm(total=total, unit="run", mininterval=1.0) as bar:
        subjects = [subject_of(study, seed, folder, greedy, bar) for seed in (VALIDATION, *range(study.seeds))]
        models = [{BASE: subject.base} for subject in subjects]
        runs = [Run(BASE, one.seed, NOISE, 0.0, values(study, one, one.base, greedy)) for one in subjects[1:]]
        grids = {}
        for name, arm in ARMS.items():
            bar.set_description(name)
            train, best = make_train(arm.method.loss, OptimConfig()), RATES[0]
            for subject, of_subject in zip(subjects, models, strict=True):
                asked = Asked(subject, arm.requests(subject.seed, study.prompts), of_subject[arm.start], greedy, sampler)
                rows = arm.rows(asked)
                batches = batches_of(arm.method, rows, subject.seed)
                found = {}
                for lr in RATES if subject.seed == VALIDATION else [best]:
                    found[lr] = train(asked.params, jnp.float32(lr), batches)
                    bar.update()
                if subject.seed == VALIDATION:
                    grid = {lr: balance(subject.likelihoods(params)) for lr, params in found.items()}
                    best, grids[name] = max(grid, key=lambda lr: grid[lr]), {f"{lr:g}": score for lr, score in grid.items()}
                else:
                    measured = values(study, subject, found[best], greedy) | facts(subject.world, rows, asked.requests)
                    runs.append(Run(name, subject.seed, NOISE, best, measured))
                of_subject[name] = found[best]
            kept = {"study": dataclasses.asdict(study), "grids": grids, "runs": [dataclasses.asdict(run) for run in runs]}
            write_json(folder / "results.json", kept)
    return runs


def values(study: Study, subject: Subject, params: Params, greedy: Engine) -> dict[str, float]:
    """Those of `transfer`, the written answers to safe requests, and the accuracies of the implicit reward."""
    safe = held_out(subject.seed, study.requests, unsafe=False)
    written = answers(greedy, params, subject.world, safe)
    answered = {f"writes_answer/{of}": share(subject.world, of, written[of], "yes") for of in LANGUAGES}
    return subject.values(params) | answered | accuracies(subject, params, study.requests)


def accuracies(subject: Subject, params: Params, count: int) -> dict[str, float]:
    """The share of `count` held-out requests of a kind whose right answer in a language has the higher reward after the dominant
    prompt or the language's own, as in "reward/own/unsafe/a"."""
    asked = [(after, kind, language) for after in AFTER for kind in KINDS for language in LANGUAGES]
    pairs = []
    for after, kind, language in asked:
        for request in held_out(subject.seed, count, unsafe=kind == "unsafe"):
            prompt = subject.world.prompt(DOMINANT if after == "dominant" else language, request)
            pairs.append(dataclasses.replace(better(subject.world, language, request), prompt=prompt))
    reward_N2 = implicit_rewards(params, subject.base, pairs, count)
    won_CN = (reward_N2[:, 0] > reward_N2[:, 1]).reshape(len(asked), count)
    return {"/".join(("reward", *names)): float(won_N.mean()) for names, won_N in zip(asked, won_CN, strict=True)}


def tables(runs: Sequence[Run]) -> str:
    """The tables that only this study has."""
    arms = methods_of(runs)

    def table(title: str, names: Sequence[str], columns: dict[str, tuple[Value, int]]) -> str:
        rows = [
            [f"`{name}`", *(estimates(runs, name, NOISE, of).text(digits) for of, digits in columns.values())] for name in names
        ]
        return markdown_table(title, ["arm", *columns], rows)

    safety = {
        "refuses": SAFETY["refuses"],
        "refuses, written": WRITTEN["refuses, written"],
        "answers": SAFETY["answers"],
        "answers, written": (lambda found: over_targets(found, "writes_answer"), 3),
        "balance": SAFETY["balance"],
    }
    pairs: dict[str, tuple[Value, int]] = {
        "rows": (lambda found: found["rows"], 0),
        "a refusal and a compliance": (lambda found: found["told"], 3),
        "of these, in the right order": (lambda found: found["right"], 3),
    }
    return "\n\n".join(
        [
            _accuracy_table(runs),
            table("Safety and help, target languages", arms, safety),
            table("The rows", [name for name in arms if name != BASE], pairs),
        ]
    )


def _accuracy_table(runs: Sequence[Run]) -> str:
    """The last row: the target languages together."""
    columns = [(after, kinds) for after in AFTER for kinds in (["unsafe"], ["safe"], KINDS)]

    def accuracy(languages: Sequence[str], after: str, kinds: Sequence[str]) -> str:
        names = [f"reward/{after}/{kind}/{language}" for kind in kinds for language in languages]
        return estimates(runs, ALIGNED, NOISE, lambda found: float(np.mean([found[name] for name in names]))).text(2)

    named: dict[str, Sequence[str]] = {**{of: [of] for of in LANGUAGES}, "targets": TARGETS}
    rows = [[name, *(accuracy(languages, *column) for column in columns)] for name, languages in named.items()]
    header = [f"{' and '.join(kinds)}, {after} prompt" for after, kinds in columns]
    return markdown_table(f"Accuracy of the implicit reward of `{ALIGNED}`", ["language", *header], rows)


def parse(argv: list[str]) -> tuple[Study, Path]:
    """Errors: no seed; a folder that is none."""
    about = "Trains models of a small world of seven languages on preference data that they have made themselves."
    parser = study_parser("own_data", about)
    given = parser.parse_args(argv)
    return Study([], [], given.seeds, [NOISE]), folder_of(given)


if __name__ == "__main__":
    main()
