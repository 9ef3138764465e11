"""What does a run have before its first update? Model, data, reference and programs: runs that differ in numbers share them."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.data.dataset import Batching, Data, prepare
from mpo_jax.devices import processes
from mpo_jax.devices.sharding import make_mesh, shards
from mpo_jax.files import hub
from mpo_jax.files.digests import digests, fingerprint
from mpo_jax.files.paths import path_of
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.base import Family
from mpo_jax.models.families.registry import build
from mpo_jax.scoring.objective import make_objective
from mpo_jax.scoring.reference import cached_reference
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.mesh_choice import chosen
from mpo_jax.training.optim import make_optimizer
from mpo_jax.training.outcome import Measured, make_measure
from mpo_jax.training.step import TrainStep, abstract_state, jit_train_step, make_eval_step, make_train_step
from mpo_jax.training.step_arguments import Numbers, numbers_of, with_numbers
from mpo_jax.types import Params, TrainState

Programs = tuple[Callable[..., Any], Callable[..., Any]]  # the step and the evaluation step, as `step` makes them


@dataclasses.dataclass(frozen=True)
class Setup:
    """`masters` gives parameters in float32, which the caller owns; `programs` those of a config that differs in numbers alone
    from the one that was set up; `model_files` are digests of the model's files by name."""

    mesh: Mesh
    model_dir: Path
    family: Family
    model: Model
    model_files: dict[str, str]
    data: Data
    ref_params: Params
    abstract: TrainState
    masters: Callable[[], Params]
    programs: Callable[[TrainConfig], Programs]
    measure: Callable[[Params], Measured]


def set_up(config: TrainConfig, paths: Iterable[str] = (), keep_weights: bool = False) -> Setup:
    """`paths`: the settings that are arguments of the programs as far as they may be (see `numbers`). With `keep_weights` the
    float32 parameters also lie in the host's memory, and are read from disk once. Errors: those of the model and the data."""
    # ---- model, mesh and data
    model_dir = hub.resolve(config.model)
    family, model, _ = build(model_dir, remat=config.remat)
    mesh = make_mesh(chosen(config, model, jax.devices()))
    processes.say("mesh: " + " ".join(f"{axis}={n}" for axis, n in mesh.shape.items()))
    with jax.set_mesh(mesh):
        batching = Batching(
            config.batch_size,
            config.loss.policy_reads,
            config.loss.reference_reads,
            config.epochs,
            config.microbatches,
            shards(mesh, "batch"),
            config.seed,
        )
        data = prepare(config.data, model_dir, family.authors_chat, batching)
        held_out = len(data.held_out.examples) if data.held_out else 0
        full = f"{data.train.efficiency:.0%} of their positions are real tokens"
        processes.say(f"data: {len(data.train.examples)} rows to train on, {held_out} held out; packed, {full}")
        # ---- the frozen reference is the same checkpoint in its own dtype
        kinds = (("config.json", *hub.WEIGHT_FILES), hub.TOKENIZER_FILES)
        weights, tokenizer = processes.on_first(lambda: [digests(model_dir, files) for files in kinds])
        key = {"weights": fingerprint(weights), "tokenizer": fingerprint(tokenizer)}
        data, ref_params = _with_reference(config, model_dir, key, model, family, data, mesh)
        # ---- parameters and programs
        optimizer = make_optimizer(config.optim, data.train.steps)
        abstract = abstract_state(model.abstract(mesh), optimizer, mesh)
        load = functools.partial(load_params, model_dir, model, family, mesh, jnp.float32)
        masters = _kept(load) if keep_weights and jax.process_count() == 1 else load
        arguments = list(numbers_of(config, paths))
        programs = _make_programs(config, arguments, model, tuple(data.train.languages), data.train.steps, abstract, mesh)
        measure = make_measure(config, model, data, mesh)
    return Setup(mesh, model_dir, family, model, weights | tokenizer, data, ref_params, abstract, masters, programs, measure)


def _make_programs(
    config: TrainConfig,
    arguments: list[str],
    model: Model,
    languages: tuple[str, ...],
    updates: int,
    abstract: TrainState,
    mesh: Mesh,
) -> Callable[[TrainConfig], Programs]:
    """Config -> its programs, compiled once for all configs that differ in `arguments` alone."""
    dtype = jnp.dtype(config.compute_dtype)

    def made(numbers: Numbers) -> TrainStep:
        given = with_numbers(config, numbers)
        return make_train_step(make_objective(model, given.loss, languages), make_optimizer(given.optim, updates), dtype)

    if not arguments:
        step = made({})
        fixed = (jit_train_step(step, abstract), make_eval_step(step.objective, dtype))
        return lambda _: fixed

    @functools.partial(jax.jit, donate_argnums=1, out_shardings=(jax.tree.map(lambda x: x.sharding, abstract), None))
    def train_step(numbers: Numbers, *inputs: Any) -> Any:
        return made(numbers)(*inputs)

    @jax.jit
    def eval_step(numbers: Numbers, *inputs: Any) -> Any:
        return make_eval_step(made(numbers).objective, dtype)(*inputs)

    def programs(config: TrainConfig) -> Programs:
        values = {path: np.float32(value) for path, value in numbers_of(config, arguments).items()}
        assert list(values) == arguments, f"{values} for {arguments}"
        placed = jax.device_put(values, NamedSharding(mesh, PartitionSpec()))
        return functools.partial(train_step, placed), functools.partial(eval_step, placed)

    return programs


def _kept(load: Callable[[], Params]) -> Callable[[], Params]:
    """What `load` gives, from a copy in the host's memory after the first time."""

    @functools.cache
    def on_host() -> tuple[Params, Any]:
        params = load()
        return jax.device_get(params), jax.tree.map(lambda x: x.sharding, params)

    def again() -> Params:
        return jax.device_put(*on_host(), may_alias=False)  # the state is donated, and the copy is not

    return again


def _with_reference(
    config: TrainConfig,
    model_dir: Path,
    key: dict[str, str],
    model: Model,
    family: Family,
    data: Data,
    mesh: Mesh,
) -> tuple[Data, Params]:
    """The reference as scores that come with the data, or as parameters for the step; nothing for a method that reads none.
    `key` names the model's files."""
    reads = config.loss.reference_reads
    if not reads.anything:
        return data, {}

    def load() -> Params:
        return load_params(model_dir, model, family, mesh, jnp.dtype(config.reference_dtype))

    if config.reference == "live":
        return data, load()
    reference = cached_reference(
        model,
        load,
        reads,
        [data.train] if data.held_out is None else [data.train, data.held_out],
        mesh,
        folder=path_of(config.reference_store) if config.reference_store else path_of(config.output) / "reference",
        identity=key
        | {
            "template": config.data.template,
            "truncation": config.data.truncation,
            "max_length": config.data.max_length,
        },
        dtype=config.reference_dtype,
    )
    return data.with_reference(reference), {}
