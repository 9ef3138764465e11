"""What does a run set up before its first update? Model, data, reference and programs."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.checkpoints.peft_folder import WEIGHTS, load_adapter
from mpo_jax.data.dataset import Batching, Data, prepare
from mpo_jax.devices import processes
from mpo_jax.devices.sharding import make_mesh, shards
from mpo_jax.errors import InputError
from mpo_jax.evaluation.held_out import Evaluation, evaluate
from mpo_jax.evaluation.measured import Measured, measure
from mpo_jax.files import hub
from mpo_jax.files.digests import digests, fingerprint, sampled
from mpo_jax.files.json_files import differences
from mpo_jax.files.paths import path_of
from mpo_jax.losses.base import files_of
from mpo_jax.models.adapters import LoraConfig, changes, init_adapter, merged, prepared
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.base import Family
from mpo_jax.models.families.registry import build
from mpo_jax.models.parameters import Frozen, joined, uncut
from mpo_jax.scoring.reference import cached_reference
from mpo_jax.training import memory_choice
from mpo_jax.training.config import AUTO, TrainConfig, describe
from mpo_jax.training.mesh_choice import advice, chosen
from mpo_jax.training.run_identity import FREE_WITHIN, identity
from mpo_jax.training.run_programs import RunPrograms, run_programs
from mpo_jax.training.step_arguments import on_mesh, step_numbers
from mpo_jax.training.trainable import abstract_trainable, frozen_weights, loaded
from mpo_jax.types import Numbers, Params

REFERENCE = "reference_model"
OWN = ("hosts", "model", REFERENCE, "output", "reference_store", "compilation_cache")  # settings in which processes may differ
Load = Callable[..., Params]  # (dtype, names of the parameters) -> these, sharded


@dataclasses.dataclass(frozen=True)
class Assembly:
    """What a run needs beside its state. Runs that differ only in numbers share it. `masters` loads the trainable parameters in
    float32 and leaves them to the caller; `model_files` are the digests of the model's files, by name; `positions` is how many
    tokens the model can read, where its config says so."""

    mesh: Mesh
    model_dir: Path
    family: Family
    model: Model
    positions: int | None
    model_files: dict[str, str]
    data: Data
    frozen: Frozen
    lora: LoraConfig
    programs: RunPrograms
    masters: Callable[[], Params]

    def evaluated(self, trainable: Params, config: TrainConfig) -> Evaluation:
        """The metrics of the held-out rows, of which there are some, and the scores from which their gaps come."""
        held_out = self.data.held_out
        assert held_out is not None
        return evaluate(self.programs.evaluate, trainable, self.frozen, self.numbers(config), held_out, self.mesh)

    def measured(self, trainable: Params, config: TrainConfig) -> Measured:
        """The measurements taken of the policy before and after training."""
        evaluate = functools.partial(self.evaluated, trainable, config)
        return measure(evaluate, self.programs.measure, joined(trainable, self.frozen.policy), self.data, self.mesh)

    def weights(self, trainable: Params) -> Params:
        """The policy's parameters as plain weights, adapters merged; the frozen ones in the compute dtype."""
        return uncut(merged(joined(trainable, self.frozen.policy)))

    def learnt(self, trainable: Params) -> Params:
        """What differs from the model's files, for an export: parameters, or what an adapter changes."""
        return changes(trainable, self.lora) if self.lora.rank else trainable

    def numbers(self, config: TrainConfig) -> Numbers:
        """The arguments of the programs for a config that differs from the assembled one only in numbers."""
        return on_mesh(step_numbers(config.loss, config.optim.peak_lr), self.mesh)


def assemble(config: TrainConfig, keep_weights: bool = False) -> Assembly:
    """With `keep_weights` the float32 parameters are kept in host memory too, so that they are read from disk once. Errors: those
    of the model and the data."""
    # ---- model, mesh and data
    model_dir = hub.resolve(config.model)
    family, model, raw = build(model_dir)
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
        full = f"{data.train.efficiency:.0%} of the packed positions hold a token"
        processes.say(f"data: {len(data.train.examples)} rows to train on, {held_out} held out; {full}")
        _agree(config, data, model_dir)
        # ---- programs, and what no update changes
        trainable = abstract_trainable(model, config.frozen, config.lora, mesh)
        model = memory_choice.chosen(config, model, memory_choice.largest_microbatch(data.train), trainable, mesh)
        if AUTO in (config.remat, config.logits):
            processes.say(f"kept for the backward pass: remat={model.remat} logits={model.logits}")
        programs = run_programs(config, model, tuple(data.train.languages), data.train.steps, mesh)
        load = functools.partial(load_params, model_dir, model, family, mesh)
        kinds = (("config.json", *hub.WEIGHT_FILES), hub.TOKENIZER_FILES)
        weights, tokenizer = processes.on_first(lambda: [digests(model_dir, files) for files in kinds])
        beside = processes.on_first(lambda: _other_files(config, digests))
        key = {"weights": beside.get(REFERENCE, fingerprint(weights)), "tokenizer": fingerprint(tokenizer)}
        data, reference, shared = _with_reference(config, key, model, load, programs, data, mesh)
        if (emptiness := advice(config, model, jax.devices(), mesh.shape, data.train.shapes.filled)) is not None:
            processes.say(f"warning: {emptiness}")
        layers, fixed = model.config.layers, frozen_weights(model, config.frozen, config.lora)
        policy = loaded(load, jnp.dtype(config.compute_dtype), fixed, layers)
    if config.lora.rank:
        policy = prepared(policy, config.lora)
        masters = functools.partial(_adapter, config, model, family, mesh)
    else:
        trained = abstract_trainable(model, config.frozen, config.lora)
        masters = functools.partial(loaded, load, jnp.float32, trained, layers)
    if keep_weights and jax.process_count() == 1:
        masters = _kept(masters)
    files = weights | tokenizer | beside
    positions = raw.get("max_position_embeddings")
    frozen = Frozen(policy, reference, shared)
    return Assembly(mesh, model_dir, family, model, positions, files, data, frozen, config.lora, programs, masters)


def _adapter(config: TrainConfig, model: Model, family: Family, mesh: Mesh) -> Params:
    """The adapter that a run starts from."""
    if config.lora.start is None:
        return init_adapter(model, config.lora, config.seed, mesh)
    return load_adapter(config.lora.start, model, family, mesh)[1]


def _other_files(config: TrainConfig, digests: Callable[..., dict[str, str]]) -> dict[str, str]:
    """The digests of the weights of an adapter to start from, of another reference, and of the files that the method reads, where
    there are such."""
    found = {}
    if config.lora.start is not None:
        found["lora.start"] = fingerprint(digests(path_of(config.lora.start), (WEIGHTS,)))
    if config.reference_model is not None:
        found[REFERENCE] = fingerprint(digests(hub.resolve(config.reference_model), ("config.json", *hub.WEIGHT_FILES)))
    for name, path in files_of(config.loss).items():
        file = path_of(path)
        found |= {f"loss.{name}": digest for digest in digests(file.parent, (file.name,)).values()}
    return found


def _agree(config: TrainConfig, data: Data, model_dir: Path) -> None:
    """Errors: processes that were given different settings, rows or models, which would wait for each other or worse. Where these
    lie may differ."""
    settings = {name: value for name, value in describe(config).items() if name not in OWN}
    for part in ("data", "lora", "loss"):
        settings[part] = {name: value for name, value in settings[part].items() if name not in FREE_WITHIN[part]}
    if settings["samples"] is not None:
        settings["samples"].pop("prompts")  # their contents are compared where they are read
    files = sampled(model_dir, ("config.json", *hub.WEIGHT_FILES, *hub.TOKENIZER_FILES)) | _other_files(config, sampled)
    facts = identity(config, data, files).facts
    processes.agree({"rows": facts["contents"], "model files": facts["model files"], "settings": settings})


def _kept(load: Callable[[], Params]) -> Callable[[], Params]:
    """Like `load`, but from a copy in host memory after the first call."""

    @functools.cache
    def on_host() -> tuple[Params, Any]:
        params = load()
        return jax.device_get(params), jax.tree.map(lambda x: x.sharding, params)

    def again() -> Params:
        return jax.device_put(*on_host(), may_alias=False)  # the state is donated, the copy must survive

    return again


def _reference(name: str, policy: Model) -> tuple[Path, Model, Family]:
    """Another model as the reference. Errors: those of its folder; one of another shape."""
    folder = hub.resolve(name)
    family, model, _ = build(folder, remat=policy.remat)
    if model.config != policy.config:
        given, own = ({f.name: getattr(m.config, f.name) for f in dataclasses.fields(m.config)} for m in (model, policy))
        raise InputError(
            f"reference_model={name} is another kind of model than the one in training ({'; '.join(differences(own, given))}): "
            "give one of the same shape and vocabulary."
        )
    return folder, model, family


def _with_reference(
    config: TrainConfig,
    key: dict[str, str],
    model: Model,
    load: Load,
    programs: RunPrograms,
    data: Data,
    mesh: Mesh,
) -> tuple[Data, Params, bool]:
    """The reference: as scores that come with the data, or as parameters for the step, or nothing where the method reads none;
    and whether it is the policy's frozen parameters, without a copy of its own. `key` identifies the model's files."""
    reads = config.loss.reference_reads
    if not reads.anything:
        return data, {}, False
    if config.reference_model is not None:
        load = functools.partial(load_params, *_reference(config.reference_model, model), mesh)
    load_reference = functools.partial(load, jnp.dtype(config.reference_dtype))
    if config.reference == "live":
        shared = bool(config.lora.rank) and config.reference_model is None
        return (data, {}, True) if shared else (data, load_reference(), False)
    reference = cached_reference(
        model,
        load_reference,
        reads,
        programs.score,
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
    return data.with_reference(reference), {}, False
