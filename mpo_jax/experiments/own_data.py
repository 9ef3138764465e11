"""How far does preference data from one's own model carry in the small world? Implicit rewards, LIDR's pairs and MAPO's.

    JAX_PLATFORMS=cpu python -m mpo_jax.experiments.own_data [--seeds 3] [--out FOLDER]

Three questions on the base models of `experiments.transfer`. Does the implicit reward of a model aligned in the dominant language
alone tell right answers in other languages? What do two rounds of Implicit Cross-Lingual Rewarding (arXiv:2503.04647) make of
that model? And, as in table 16 of arXiv:2505.16869, what do DPO with likelihood and multilingual reward-gap MPO learn from pairs
made as in Language Imbalance Driven Rewarding (arXiv:2410.08964) and in MAPO (arXiv:2401.06838)? docs/experiments.md has the
results.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mpo_jax import losses
from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.errors import InputError, one_sentence
from mpo_jax.experiments.learning import make_train
from mpo_jax.experiments.measuring import answer_logps
from mpo_jax.experiments.methods import METHODS, Method
from mpo_jax.experiments.own_pairs import SELF_TRANSLATION, alignments, best_and_worst, calibrated, preferred, right
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
from mpo_jax.experiments.world import DOMINANT, LANGUAGES, TARGETS, Noise, Request, World, harmless, held_out, unsafe_requests
from mpo_jax.experiments.writing import LONGEST_ANSWER, answers, make_engine, share
from mpo_jax.files.json_files import write_json
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.engine import Engine
from mpo_jax.training.optim import OptimConfig
from mpo_jax.types import Params

NOISE = Noise()  # none
RATES = (5e-5, 1e-4, 2e-4)  # of which each arm takes the one with the best balance on the validation seed
SAMPLED = Decoding(samples=8, temperature=0.9, max_new_tokens=LONGEST_ANSWER)
TOGETHER = 256  # answers are written at a time

After = Literal["dominant", "own"]  # whose prompt an answer is scored after
AFTER: tuple[After, ...] = ("dominant", "own")
KINDS = ("unsafe", "safe")


@dataclasses.dataclass(frozen=True)
class Asked:
    """A seed's requests, the model that answers them, and what writes its greedy answers and its samples."""

    subject: Subject
    requests: Sequence[Request]
    params: Params
    greedy: Engine
    sampler: Engine

    def prompts(self, language: str) -> list[np.ndarray]:
        return [self.subject.world.prompt(language, request) for request in self.requests]

    def pairs(self, language: str) -> list[TokenPair]:
        """The right answers before the wrong ones."""
        return [better(self.subject.world, language, request) for request in self.requests]

    def parallel(self, language: str, found: dict[int, TokenPair]) -> list[Example]:
        """Rows of a target language with their dominant pair."""
        dominant = self.pairs(DOMINANT)
        return [Example(f"{i}.{language}", language, dominant[i], pair) for i, pair in found.items()]


def better(world: World, language: str, request: Request) -> TokenPair:
    """Chosen: the refusal of an unsafe request, the compliance with a safe one."""
    pair = world.pair(language, request)
    return pair if request.unsafe else TokenPair(pair.prompt, pair.rejected, pair.chosen)


def dominant_alone(asked: Asked) -> list[Example]:
    return [Example(str(i), DOMINANT, None, pair) for i, pair in enumerate(asked.pairs(DOMINANT))]


def translated(asked: Asked) -> list[Example]:
    """As of a translator without mistakes."""
    return _by_request([asked.parallel(language, dict(enumerate(asked.pairs(language)))) for language in TARGETS])


def rewarded(after: After) -> Callable[[Asked], list[Example]]:
    """Rows of Implicit Cross-Lingual Rewarding, the dominant language included, with the reward of the model that answers over
    the base model."""

    def rows(asked: Asked) -> list[Example]:
        written = answers(asked.sampler, asked.params, asked.subject.world, asked.requests, SAMPLED.samples)
        z = {language: asked.prompts(DOMINANT if after == "dominant" else language) for language in LANGUAGES}
        scored = [
            TokenPair(prompt, first, second)
            for language in LANGUAGES
            for prompt, samples in zip(z[language], written[language], strict=True)
            for first, second in zip(samples[::2], samples[1::2], strict=True)
        ]
        reward_N2 = rewards(asked.params, asked.subject.base, scored, len(asked.requests))
        reward_LNK = reward_N2.reshape(len(LANGUAGES), len(asked.requests), SAMPLED.samples)
        found = []
        for language, reward_NK in zip(LANGUAGES, reward_LNK, strict=True):
            samples = written[language]
            pairs = best_and_worst(asked.prompts(language), samples, calibrated(reward_NK, samples))
            found += [Example(f"{i}.{language}", language, None, pair) for i, pair in pairs.items()]
        return found

    return rows


def rewards(params: Params, base: Params, pairs: Sequence[TokenPair], together: int) -> np.ndarray:
    """log p_model(answer) - log p_base(answer) of both answers of each pair, nats, f32 [N, 2]; `together` divides N."""
    return answer_logps(params, pairs, together) - answer_logps(base, pairs, together)


def accuracies(subject: Subject, params: Params, count: int) -> dict[str, float]:
    """ "reward/own/unsafe/a" and so on: the share of `count` held-out requests of a kind whose right answer in a language has the
    higher reward after the dominant prompt or the language's own."""
    asked = [(after, kind, language) for after in AFTER for kind in KINDS for language in LANGUAGES]
    pairs = []
    for after, kind, language in asked:
        for request in held_out(subject.seed, count, unsafe=kind == "unsafe"):
            prompt = subject.world.prompt(DOMINANT if after == "dominant" else language, request)
            pairs.append(dataclasses.replace(better(subject.world, language, request), prompt=prompt))
    reward_N2 = rewards(params, subject.base, pairs, count)
    won_CN = (reward_N2[:, 0] > reward_N2[:, 1]).reshape(len(asked), count)
    return {"/".join(("reward", *names)): float(won_N.mean()) for names, won_N in zip(asked, won_CN, strict=True)}


def lidr(asked: Asked) -> list[Example]:
    """Chosen: the dominant refusal in the model's translation, whose noise is `SELF_TRANSLATION`. Rejected: its greedy answer."""
    world, seed, found = asked.subject.world, asked.subject.seed, []
    written = answers(asked.greedy, asked.params, world, asked.requests)
    for j, language in enumerate(TARGETS):
        chosen = [
            world.mistranslated(language, pair, SELF_TRANSLATION, np.random.default_rng((seed, 6, i, j))).chosen
            for i, pair in enumerate(asked.pairs(language))
        ]
        found.append(asked.parallel(language, preferred(chosen, asked.prompts(language), written[language])))
    return _by_request(found)


def mapo(asked: Asked) -> list[Example]:
    """The sample that aligns best with the dominant refusal before the one that aligns worst."""
    world, found = asked.subject.world, []
    written = answers(asked.sampler, asked.params, world, asked.requests, SAMPLED.samples)
    references = [pair.chosen for pair in asked.pairs(DOMINANT)]
    for language in TARGETS:
        samples = written[language]
        pairs = best_and_worst(asked.prompts(language), samples, alignments(world, language, samples, references))
        found.append(asked.parallel(language, pairs))
    return _by_request(found)


def _by_request(found: Sequence[list[Example]]) -> list[Example]:
    """The rows of a request next to each other, as `Method.rows` expects them."""
    return sorted((row for rows in found for row in rows), key=lambda row: int(row.id.partition(".")[0]))


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
    "dpo_both_kinds": Arm(BASE, both_kinds, translated, METHODS["dpo"]),
    "dpo": Arm(BASE, unsafe_alone, translated, METHODS["dpo"]),
    "mpo": Arm(BASE, unsafe_alone, translated, METHODS["mpo"]),
    "dpo_nll_lidr": Arm(BASE, unsafe_alone, lidr, ON_BOTH),
    "mpo_lidr": Arm(BASE, unsafe_alone, lidr, METHODS["mpo"]),
    "dpo_nll_mapo": Arm(BASE, unsafe_alone, mapo, ON_BOTH),
    "mpo_mapo": Arm(BASE, unsafe_alone, mapo, METHODS["mpo"]),
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
                    of_rows = facts(subject.world, rows, asked.requests)
                    runs.append(Run(name, subject.seed, NOISE, best, of_rows | values(study, subject, found[best], greedy)))
                of_subject[name] = found[best]
            kept = {"study": dataclasses.asdict(study), "grids": grids, "runs": [dataclasses.asdict(run) for run in runs]}
            write_json(folder / "results.json", kept)
    return runs


def values(study: Study, subject: Subject, params: Params, greedy: Engine) -> dict[str, float]:
    """Those of `transfer`, "writes_answer/a" and so on (of safe requests), and the accuracies of the implicit reward."""
    safe = held_out(subject.seed, study.requests, unsafe=False)
    written = answers(greedy, params, subject.world, safe)
    answered = {f"writes_answer/{of}": share(subject.world, of, written[of], "yes") for of in LANGUAGES}
    return subject.values(params) | answered | accuracies(subject, params, study.requests)


def facts(world: World, rows: Sequence[Example], requests: Sequence[Request]) -> dict[str, float]:
    """How many rows there are, and how many are told apart and right (`own_pairs.right`), in shares of all."""
    told, correct = right(world, rows, [request.unsafe for request in requests])
    return {"rows": len(rows), "told": told / len(rows), "right": correct / len(rows)}


def tables(runs: Sequence[Run]) -> str:
    """The tables that only this study has."""
    names = methods_of(runs)

    def of(name: str, value: Value, digits: int) -> str:
        return estimates(runs, name, NOISE, value).text(digits)

    columns = {
        "refuses": SAFETY["refuses"],
        "refuses, written": WRITTEN["refuses, written"],
        "answers": SAFETY["answers"],
        "answers, written": (lambda found: over_targets(found, "writes_answer"), 3),
        "balance": SAFETY["balance"],
    }
    made = {"rows": 0, "told": 2, "right": 2}
    after = [(of_prompt, kind) for of_prompt in AFTER for kind in (*KINDS, "mean")]
    accuracy = [
        [language, *(of(ALIGNED, lambda found, at=(p, k, language): _accuracy(found, *at), 2) for p, k in after)]
        for language in LANGUAGES
    ]
    return "\n\n".join(
        [
            markdown_table(
                "Accuracy of the implicit reward of `aligned`",
                ["language", *(f"{kind}, after the {prompt} prompt" for prompt, kind in after)],
                accuracy,
            ),
            markdown_table(
                "Safety and help, target languages",
                ["arm", *columns],
                [[f"`{name}`", *(of(name, value, digits) for value, digits in columns.values())] for name in names],
            ),
            markdown_table(
                "The pairs: how many, and the shares that are a refusal and a compliance, and in the right order",
                ["arm", *made],
                [
                    [f"`{name}`", *(of(name, lambda found, what=what: found[what], digits) for what, digits in made.items())]
                    for name in names
                    if name != BASE
                ],
            ),
        ]
    )


def _accuracy(found: dict[str, float], after: str, kind: str, language: str) -> float:
    kinds = KINDS if kind == "mean" else (kind,)
    return float(np.mean([found[f"reward/{after}/{one}/{language}"] for one in kinds]))


def parse(argv: list[str]) -> tuple[Study, Path]:
    """Errors: no seed; a folder that is none."""
    about = "Trains models of a small world of seven languages on preference data that they have made themselves."
    parser = argparse.ArgumentParser(prog="python -m mpo_jax.experiments.own_data", description=about)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds to report (default: %(default)s)")
    parser.add_argument(
        "--out", default="runs/own_data", help="folder for results.json, tables.md and plots (default: %(default)s)"
    )
    given = parser.parse_args(argv)
    if given.seeds < 1:
        raise InputError(f"--seeds={given.seeds} must be at least 1, and at least 2 for intervals.")
    if "://" in given.out:
        raise InputError(f"--out={given.out} is not a local folder: give one, since a study cannot write to a bucket.")
    return Study(list(ARMS), [], given.seeds, [NOISE]), Path(given.out)


if __name__ == "__main__":
    main()
