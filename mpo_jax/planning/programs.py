"""Which programs does a run compile for its devices, and what else do these hold meanwhile? Laid out from shapes alone."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.dataset import Batching
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.devices.sharding import abstract_on_mesh, batch_to_mesh, like, make_mesh, shards
from mpo_jax.errors import InputError
from mpo_jax.files import hub
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.base import Family
from mpo_jax.models.families.registry import build
from mpo_jax.models.weight_table import gather, in_order, leaf, piece_of
from mpo_jax.planning.tpu_compiler import devices
from mpo_jax.scoring.objective import make_objective
from mpo_jax.scoring.reference import of_pairs, stored_fields
from mpo_jax.scoring.sequences import make_score_step
from mpo_jax.telemetry.memory import bytes_on
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.mesh_choice import chosen
from mpo_jax.training.optim import make_optimizer
from mpo_jax.training.step import TrainStep, abstract_state, make_eval_step, make_train_step
from mpo_jax.training.step import programs as step_programs
from mpo_jax.types import SIDES, Batch, Pair, Params, Reads, Scores, SequenceScores, TrainState

UPDATES = 150  # of the learning rate's schedule, which takes no memory
LANGUAGES = ("ar", "bn", "jv", "ko", "sw", "zh")  # as many as the published data has


class Program(NamedTuple):
    """One that a run's devices execute, and the bytes that each of them holds meanwhile beside its arguments."""

    name: str
    lowered: jax.stages.Lowered
    held: int


@dataclasses.dataclass(frozen=True)
class Laid:
    """A run laid out on a slice: shapes, dtypes and places, nothing compiled. All rows of `train` are as long as can be."""

    config: TrainConfig
    topology: str
    slices: int
    devices: Sequence[Any]
    mesh: Mesh
    family: Family
    model: Model
    step: TrainStep
    state: TrainState
    ref_params: Params
    train: Pipeline

    @functools.cached_property
    def host(self) -> Batch:
        """A batch of training, numpy."""
        return self.train.batch_at(0)


def lay_out(config: TrainConfig, topology: str, tokens: int | None = None, slices: int = 1) -> Laid:
    """The run of `config` on this slice, or on `slices` of them, with the fullest batches whose sequences have `tokens` tokens
    each (by default the most that it allows).

    Errors: those of `devices`, a mesh that the slice or the model's dimensions do not divide, a folder without config.json.
    """
    slice_devices = devices(topology, slices)
    family, model, _ = build(hub.resolve(config.model, weights=False), remat=config.remat)
    mesh = make_mesh(chosen(config, model, slice_devices), slice_devices)
    # A mesh of devices that are not here is for the compiler alone: anything computed under it at once would fail.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        optimizer = make_optimizer(config.optim, UPDATES)
        live = config.reference == "live" and bool(config.loss.reference_reads.anything)
        return Laid(
            config,
            topology,
            slices,
            slice_devices,
            mesh,
            family,
            model,
            make_train_step(make_objective(model, config.loss, LANGUAGES), optimizer, jnp.dtype(config.compute_dtype)),
            abstract_state(model.abstract(mesh), optimizer, mesh),
            model.abstract(mesh, jnp.dtype(config.reference_dtype)) if live else {},
            fullest(config, model, config.data.max_length if tokens is None else tokens, shards(mesh, "batch")),
        )


def programs(laid: Laid) -> Iterator[Program]:
    """All that decide what a run needs, the step's first; each is lowered when it is asked for, under the mesh of `laid`. Loading
    the model is none of them: it holds no more than what it has loaded and one layer's tensor."""
    yield from _step(laid)
    yield from _evaluation(laid)
    yield from _scoring(laid)
    yield from _export(laid)


def _step(laid: Laid) -> Iterator[Program]:
    batch, reference = _placed(laid, laid.train), bytes_on(laid.ref_params)
    first, *rest = step_programs(laid.step, laid.state)
    if not rest:
        yield Program("step", first.lower(laid.state, laid.ref_params, batch), 0)
        return
    args = (laid.state.params, laid.ref_params, batch)
    yield Program("step", first.lower(*args), bytes_on(laid.state.opt_state))
    loss, metrics, grads = jax.eval_shape(first, *args)
    grads = jax.tree.map(lambda x, p: like(x, p.sharding), grads, laid.state.params)
    yield Program("step", rest[0].lower(laid.state, loss, metrics, grads), reference)


def _evaluation(laid: Laid) -> Iterator[Program]:
    """The reward gaps before and after, and the training's metrics where rows are held out. Texts are measured as the gaps are,
    of which they have one side."""
    config, dtype = laid.config, jnp.dtype(laid.config.compute_dtype)
    moments, reference = bytes_on(laid.state.opt_state), bytes_on(laid.ref_params)
    reads = Batching(config.batch_size, Reads()).measuring(source=True).policy
    gaps = dataclasses.replace(laid.train, policy=reads, reference=Reads(), scores=None)
    measured = make_score_step(laid.model, dtype, reads).lower(laid.state.params, _placed(laid, gaps))
    yield Program("evaluation", measured, moments + reference)
    if config.data.eval_fraction or config.data.eval_path is not None:
        step = make_eval_step(laid.step.objective, dtype)
        yield Program("evaluation", step.lower(laid.state.params, laid.ref_params, _placed(laid, laid.train)), moments)


def _scoring(laid: Laid) -> Iterator[Program]:
    """What a cached reference says of each side. There is no state yet."""
    config, wanted = laid.config, laid.config.loss.reference_reads
    if config.reference == "cached":
        for want in dict.fromkeys(want for side in SIDES if (want := wanted.want(side))):
            examples = [dataclasses.replace(example, language="") for example in laid.train.examples]
            pairs = of_pairs(laid.train, examples, want, wanted.pooling)
            step = make_score_step(laid.model, config.reference_dtype, pairs.policy)
            params = laid.model.abstract(laid.mesh, jnp.dtype(config.reference_dtype))
            yield Program("scoring", step.lower(params, _placed(laid, pairs)), 0)


def _export(laid: Laid) -> Iterator[Program]:
    """A piece of the largest tensor on every device, as where a slice has several hosts: each sees its own devices alone."""
    if laid.config.export.enabled:
        tensors = in_order(laid.model, laid.family.weights(laid.model.config))
        _, place, layer = max(tensors, key=lambda tensor: math.prod(tensor[1].shape))
        target = leaf(laid.state.params, place.weight.ours)
        cuts = target.sharding.spec if layer is None else target.sharding.spec[1:]
        tensor = jax.ShapeDtypeStruct(place.shape, target.dtype, sharding=NamedSharding(laid.mesh, jax.P(*cuts)))
        lowered = gather.lower(tensor, like(np.int32(0), laid.state.step.sharding), piece_of(tensor)[1], tensor.sharding)
        held = bytes_on(laid.state) + bytes_on(laid.ref_params) - (bytes_on(tensor) if layer is None else 0)
        yield Program("export", lowered, held)


def _placed(laid: Laid, pipeline: Pipeline) -> Batch:
    return batch_to_mesh(pipeline.batch_at(0), laid.mesh, abstract_on_mesh)


def fullest(config: TrainConfig, model: Model, tokens: int, pieces: int) -> Pipeline:
    """One update of training whose sequences all have `tokens` tokens, nearly all of them answers, packed for this many
    shards."""
    if tokens < 2:
        raise InputError(f"--tokens={tokens} is no length of a sequence: it has a prompt and an answer, so write 2 or more.")
    ids = lambda n: np.zeros(n, np.int32)  # noqa: E731
    pair = TokenPair(ids(1), ids(tokens - 1), ids(tokens - 1))
    live, reads = config.reference == "live", config.loss.reference_reads
    return Pipeline(
        [Example("", LANGUAGES[0], pair, pair, pair, pair)] * config.batch_size,
        LANGUAGES,
        config.batch_size,
        0,
        config.loss.policy_reads,
        reads if live else Reads(),
        microbatches=config.microbatches,
        shards=pieces,
        scores=None if live else functools.partial(_stored_scores, reads, model.config.hidden_size),
    )


def _stored_scores(reads: Reads, width: int, rows: Sequence[Example | None], microbatches: int) -> Scores:
    """What `reference.CachedReference` brings with a batch."""

    def answer(side: str) -> SequenceScores:
        fields = stored_fields(reads.want(side), width).items()
        arrays: dict[str, Any] = {
            name: np.zeros((microbatches, len(rows) // microbatches, *shape), np.float32) for name, shape in fields
        }
        return SequenceScores(**arrays)

    return Scores(**{side: Pair(answer(side), answer(side)) for side in SIDES if reads.want(side)})
