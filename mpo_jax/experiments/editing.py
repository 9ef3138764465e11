"""What does an edit without training do in the small world, by itself and after multilingual reward-gap MPO?

    JAX_PLATFORMS=cpu python -m mpo_jax.experiments.editing [--seeds 5] [--ranks 2,4,8,full] [--out FOLDER]

Sparse Weight Editing (arXiv:2602.22554) of the base models of `experiments.transfer` and of what MPO makes of them, measured on
the same held-out requests. Harmful prompts: the unsafe requests of the preference data. Harmless ones: safe requests about the
same objects. docs/experiments.md has the results.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mpo_jax.data.packing import pack_prompts
from mpo_jax.editing.layer_edit import EditConfig, Inputs, MatrixEdit, edit_layer
from mpo_jax.editing.neurons import overlap
from mpo_jax.errors import InputError, one_sentence
from mpo_jax.experiments.command_line import folder_of, study_parser
from mpo_jax.experiments.learning import MODEL, make_train
from mpo_jax.experiments.methods import METHODS
from mpo_jax.experiments.results import BASE, Run, markdown, plot
from mpo_jax.experiments.transfer import COST_OF_A_BASE, VALIDATION, Study, Subject, data, rates_tried, subject_of
from mpo_jax.experiments.world import LANGUAGES, PAD, Noise, World, harmless, unsafe_requests
from mpo_jax.experiments.writing import make_engine
from mpo_jax.files.json_files import write_json
from mpo_jax.models.layers import ACTIVATIONS
from mpo_jax.scoring.sequences import pool
from mpo_jax.telemetry.plots import plot_matrix
from mpo_jax.training.optim import OptimConfig
from mpo_jax.types import Params

METHOD = "mpo"
Rank = int | None  # None = no limit


def main(argv: list[str] | None = None) -> None:
    with one_sentence():
        study, ranks, folder = parse(sys.argv[1:] if argv is None else argv)
        runs, shared = carry_out(study, ranks, folder)
        tables = markdown(runs)
        (folder / "tables.md").write_text(tables, encoding="utf-8")
        kept = {"languages": LANGUAGES, "mean_overlap": shared.tolist(), "runs": [dataclasses.asdict(run) for run in runs]}
        write_json(folder / "results.json", kept)
        plot(runs, folder)
        plot_matrix(shared, LANGUAGES, folder / "overlap.png", "Safety neurons that two languages share (Jaccard's index)")
        print(f"\n{tables}\nin {folder}: results.json, tables.md and plots")


def carry_out(study: Study, ranks: Sequence[Rank], folder: Path) -> tuple[list[Run], np.ndarray]:
    """(runs of the base models, of MPO, and of either with an edit of each rank; the base models' mean overlap of neurons)."""
    engine, method, runs, shared = make_engine(study.requests), METHODS[METHOD], [], []
    train, noise = make_train(method.loss, OptimConfig()), study.noises[0]
    steps = COST_OF_A_BASE * (study.seeds + 1) + len(method.grid) + study.seeds * (2 + 2 * len(ranks))
    with tqdm(total=steps, unit="run", mininterval=1.0) as bar:

        def aligned(subject: Subject, lr: float) -> Params:
            return train(subject.base, jnp.float32(lr), data(study, method, subject, noise))

        def measured(name: str, subject: Subject, params: Params, lr: float = 0.0) -> None:
            bar.set_description(f"{name}, seed {subject.seed}")
            runs.append(Run(name, subject.seed, noise, lr, subject.values(params)))
            bar.update()

        validation = subject_of(study, VALIDATION, folder, engine, bar)
        best, _ = rates_tried(study, method, train, validation, bar.update)
        for seed in range(study.seeds):
            subject = subject_of(study, seed, folder, engine, bar)
            for name, params, lr in ((BASE, subject.base, 0.0), (METHOD, aligned(subject, best), best)):
                measured(name, subject, params, lr)
                inputs = inputs_of(params, subject.world, seed, study.prompts)
                for rank in ranks:
                    edited, edits = edit(params, inputs, EditConfig(rank))
                    measured(f"{name}, edit of {'full rank' if rank is None else f'rank {rank}'}", subject, edited, lr)
                    if name == BASE and rank == ranks[0]:  # neurons do not depend on the rank
                        shared += [overlap(one.of_language) for of_layer in edits for one in of_layer.values()]
    return runs, np.mean(shared, axis=0)


def inputs_of(params: Params, world: World, seed: int, prompts: int) -> list[Inputs]:
    """What enters each layer's MLP at the last token of every prompt."""
    kinds = {"harmful": unsafe_requests(seed, prompts), "harmless": harmless(seed, prompts)}
    asked = [(kind, language) for kind in kinds for language in LANGUAGES]
    ids = [world.prompt(language, request) for kind, language in asked for request in kinds[kind]]
    batches, slots = pack_prompts(ids, rows=1, pad_id=PAD, pooling="last_prompt")
    found = np.zeros((MODEL.config.layers, len(ids), MODEL.config.hidden_size), np.float32)
    for packed, held in batches:
        readers = {"mlp_input": lambda x_STD, packed=packed: pool(x_STD, packed, slots)}
        found[:, held] = jax.device_get(MODEL.tapped(params, packed, readers)[1]["mlp_input"])[:, : len(held)]
    inputs = []
    for layer_ND in found:
        parts = dict(zip(asked, np.split(layer_ND, len(asked)), strict=True))
        inputs.append(Inputs(*({language: parts[kind, language] for language in LANGUAGES} for kind in kinds)))
    return inputs


def edit(params: Params, inputs: Sequence[Inputs], config: EditConfig) -> tuple[Params, list[dict[str, MatrixEdit]]]:
    """(the edited parameters, the edits of each layer)."""
    mlp = {name: np.array(weight) for name, weight in params["layers"]["mlp"].items()}
    edits = []
    for layer, of_layer in enumerate(inputs):
        weights = {name: mlp[name][layer] for name in ("gate", "up")}
        edits.append(edit_layer(weights, of_layer, config, _activated))
        for name, one in edits[-1].items():
            mlp[name][layer] = one.applied(weights[name])
    return {**params, "layers": {**params["layers"], "mlp": jax.tree.map(jnp.asarray, mlp)}}, edits


def _activated(x: np.ndarray) -> np.ndarray:
    return np.asarray(ACTIVATIONS[MODEL.config.activation](jnp.asarray(x)))


def parse(argv: list[str]) -> tuple[Study, list[Rank], Path]:
    """Errors: no seed; ranks that are none."""
    about = "Edits models of a small world of seven languages without training, before and after multilingual reward-gap MPO."
    parser = study_parser("editing", about)
    parser.add_argument("--ranks", default="1,2,4,full", help="of the edits, separated by commas (default: %(default)s)")
    given = parser.parse_args(argv)
    ranks = given.ranks.split(",")
    if not all(rank == "full" or (rank.isdigit() and int(rank) > 0) for rank in ranks):
        raise InputError(f"--ranks={given.ranks}: write numbers above 0 or 'full', separated by commas, as in 1,4,full.")
    return Study([METHOD], [], given.seeds, [Noise()]), [None if r == "full" else int(r) for r in ranks], folder_of(given)


if __name__ == "__main__":
    main()
