"""Which programs does a run compile for its devices, and what else is in their memory meanwhile? All from shapes alone."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.devices.sharding import abstract_on_mesh, batch_to_mesh, like, make_mesh, shards
from mpo_jax.errors import InputError
from mpo_jax.files import hub
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.base import Family
from mpo_jax.models.families.registry import build
from mpo_jax.models.parameters import Frozen, in_stack, joined
from mpo_jax.models.weight_table import gather, in_order, piece_of
from mpo_jax.planning.tpu_compiler import devices
from mpo_jax.scoring.reference import of_pairs, stored_fields, stored_reads
from mpo_jax.telemetry.memory import bytes_on
from mpo_jax.training import memory_choice
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.mesh_choice import chosen
from mpo_jax.training.run_programs import RunPrograms, run_programs
from mpo_jax.training.step_arguments import step_numbers
from mpo_jax.training.trainable import abstract_trainable, frozen_part
from mpo_jax.types import PAIR_KINDS, Batch, Numbers, Pair, Reads, Scores, SequenceScores, TrainState, Want

UPDATES = 150  # of the learning rate's schedule, which takes no memory
LANGUAGES = ("ar", "bn", "jv", "ko", "sw", "zh")  # as many as the published data has


class Program(NamedTuple):
    """A program that a run's devices execute, and the bytes that each device holds meanwhile beside the program's arguments."""

    name: str
    lowered: jax.stages.Lowered
    held: int


@dataclasses.dataclass(frozen=True)
class RunLayout:
    """A run laid out on a slice: shapes, dtypes and shardings, nothing compiled. All rows of `train` have the greatest length.
    The settings of `config` are those chosen where it left them open: what is kept for the backward pass."""

    config: TrainConfig
    topology: str
    slices: int
    devices: Sequence[Any]
    mesh: Mesh
    family: Family
    model: Model
    programs: RunPrograms
    frozen: Frozen
    train: Pipeline

    @property
    def state(self) -> TrainState:
        return self.programs.state

    @functools.cached_property
    def host(self) -> Batch:
        """A batch of training, numpy."""
        return self.train.batch_at(0)

    @property
    def numbers(self) -> Numbers:
        number = like(np.float32(0), self.state.step.sharding)
        return jax.tree.map(lambda _: number, step_numbers(self.config.loss, self.config.optim.peak_lr))


def lay_out(config: TrainConfig, topology: str, tokens: int | None = None, slices: int = 1) -> RunLayout:
    """The run of `config` on this slice, or on `slices` of them, with full batches of sequences of `tokens` tokens each (default:
    the most that the config allows).

    Errors: those of `devices`; a mesh that does not fit the slice or the model's dimensions; a folder without config.json.
    """
    return lay_out_on(devices(topology, slices), config, topology, tokens, slices)


def lay_out_on(
    slice_devices: Sequence[Any], config: TrainConfig, topology: str, tokens: int | None = None, slices: int = 1
) -> RunLayout:
    """As `lay_out`, on these devices."""
    family, model, _ = build(hub.resolve(config.model, weights=False))
    mesh = make_mesh(chosen(config, model, slice_devices), slice_devices)
    # A mesh of devices that do not exist here is for the compiler only: computing anything under it would fail.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        live = config.reference == "live" and bool(config.loss.reference_reads.anything)
        shared = live and bool(config.lora.rank) and config.reference_model is None
        policy, reference = (model.abstract(mesh, jnp.dtype(of)) for of in (config.compute_dtype, config.reference_dtype))
        train = fullest(config, model, config.data.max_length if tokens is None else tokens, shards(mesh, "batch"))
        trainable = abstract_trainable(model, config.frozen, config.lora, mesh)
        model = memory_choice.chosen(config, model, memory_choice.largest_microbatch(train), trainable, mesh)
        config = dataclasses.replace(config, remat=model.remat, logits=model.logits, kept_gb=None)
        return RunLayout(
            config,
            topology,
            slices,
            slice_devices,
            mesh,
            family,
            model,
            run_programs(config, model, LANGUAGES, UPDATES, mesh),
            Frozen(frozen_part(policy, config.frozen, config.lora), {} if shared or not live else reference, shared),
            train,
        )


def programs(layout: RunLayout) -> Iterator[Program]:
    """All programs that can decide how much memory a run needs, the step's first; each is lowered on demand, under the mesh of
    `layout`. Loading the model is not among them: it needs only what it has loaded and one layer's tensor."""
    yield from _step(layout)
    yield from _evaluation(layout)
    yield from _scoring(layout)
    yield from _export(layout)


def _step(layout: RunLayout) -> Iterator[Program]:
    batch, state, numbers = _placed(layout, layout.train), layout.state, layout.numbers
    first, *rest = layout.programs.train_programs
    if not rest:
        yield Program("step", first.lower(state, layout.frozen, batch, numbers), 0)
        return
    args = (state.trainable, layout.frozen, batch, numbers)
    yield Program("step", first.lower(*args), bytes_on(state.opt_state))
    loss, metrics, grads = jax.eval_shape(first, *args)
    grads = jax.tree.map(lambda x, p: like(x, p.sharding), grads, state.trainable)
    yield Program("step", rest[0].lower(state, numbers, loss, metrics, grads), bytes_on(layout.frozen))


def _evaluation(layout: RunLayout) -> Iterator[Program]:
    """The metrics and gaps of held-out rows, or the gaps of others where none are held out. Texts are measured like these, with
    one side only."""
    config, state, frozen = layout.config, layout.state, layout.frozen
    moments = bytes_on(state.opt_state)
    if config.data.eval_fraction or config.data.eval_path is not None:
        args = (state.trainable, frozen, _placed(layout, evaluated(layout)), layout.numbers)
        yield Program("evaluation", layout.programs.evaluate.lower(*args), moments)
    else:
        lowered = layout.programs.measure.lower(joined(state.trainable, frozen.policy), _placed(layout, measured(layout)))
        yield Program("evaluation", lowered, moments + bytes_on(frozen.reference))


def evaluated(layout: RunLayout) -> Pipeline:
    """One batch of held-out rows."""
    return dataclasses.replace(layout.train, policy=layout.train.policy | Reads.answers(source=True))


def measured(layout: RunLayout) -> Pipeline:
    """One batch of rows whose gaps are measured where none are held out."""
    return dataclasses.replace(layout.train, policy=Reads.answers(source=True), reference=Reads(), scores=None)


def _scoring(layout: RunLayout) -> Iterator[Program]:
    """A cached reference's scores of each pair. There is no training state yet."""
    params = layout.model.abstract(layout.mesh, jnp.dtype(layout.config.reference_dtype))
    for want, pipeline in scored(layout).items():
        lowered = layout.programs.score[want].lower(params, _placed(layout, pipeline))
        yield Program("scoring", lowered, bytes_on(layout.frozen.policy))


def scored(layout: RunLayout) -> dict[Want, Pipeline]:
    """One batch of pairs of each kind that a cached reference scores; nothing where it is live."""
    if layout.config.reference == "live":
        return {}
    examples = [dataclasses.replace(example, language="") for example in layout.train.examples]
    reads = stored_reads(layout.config.loss.reference_reads)
    return {want: of_pairs(layout.train, examples, of) for want, of in reads.items()}


def _export(layout: RunLayout) -> Iterator[Program]:
    """Gathers a piece of the largest tensor on every device, as is needed where a slice has several hosts. What was not trained
    stays in the model's files."""
    if layout.config.export.enabled:
        tensor, copied = max(_exported(layout), key=lambda found: found[0].size)
        lowered = gather.lower(tensor, like(np.int32(0), layout.state.step.sharding), piece_of(tensor)[1], tensor.sharding)
        held = bytes_on(layout.state) + bytes_on(layout.frozen) - (0 if copied else bytes_on(tensor))
        yield Program("export", lowered, held)


def _exported(layout: RunLayout) -> Iterator[tuple[jax.ShapeDtypeStruct, bool]]:
    """What an export brings to the host, and whether that is a copy of one layer: the factors of an adapter, or the parameters
    that were trained."""
    trainable = layout.state.trainable
    if layout.config.lora.rank:
        yield from ((factor, False) for factor in jax.tree.leaves(trainable))
        return
    for _, place, layer in in_order(layout.model, layout.family.weights(layout.model.config)):
        target, _ = in_stack(trainable, place.weight.ours, layer, layout.model.config.layers)
        if target is not None:
            cuts = target.sharding.spec if layer is None else target.sharding.spec[1:]
            place_of_one = NamedSharding(layout.mesh, jax.P(*cuts))
            yield jax.ShapeDtypeStruct(place.shape, target.dtype, sharding=place_of_one), layer is not None


def _placed(layout: RunLayout, pipeline: Pipeline) -> Batch:
    return batch_to_mesh(pipeline.batch_at(0), layout.mesh, abstract_on_mesh)


def fullest(config: TrainConfig, model: Model, tokens: int, pieces: int) -> Pipeline:
    """One training update whose sequences all have `tokens` tokens, packed for this many shards. Nearly all of them are in the
    answers; where prompts are read by themselves half of them, or none if no answer is read."""
    if tokens < 2:
        raise InputError(f"--tokens={tokens} must be at least 2, since a sequence has a prompt and an answer.")
    live, reads = config.reference == "live", config.loss.reference_reads
    alone, answered = config.loss.policy_reads.prompts, any(map(config.loss.policy_reads.want_of_answers, PAIR_KINDS))
    prompt = (tokens // 2 if answered else tokens) if alone else 1

    def row(i: int) -> Example:
        ids = lambda n: np.full(n, i, np.int32)  # noqa: E731, prompts of their own, since equal ones are packed once
        pair = TokenPair(ids(prompt), ids(max(1, tokens - prompt)), ids(max(1, tokens - prompt)))
        return Example("", LANGUAGES[0], pair, pair, pair, pair)

    return Pipeline(
        list(map(row, range(config.batch_size))),
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
    """The scores that `reference.CachedReference` adds to a batch."""

    def answer(kind: str) -> SequenceScores:
        fields = stored_fields(reads.want(kind), width).items()
        arrays: dict[str, Any] = {
            name: np.zeros((microbatches, len(rows) // microbatches, *shape), np.float32) for name, shape in fields
        }
        return SequenceScores(**arrays)

    pairs: dict[str, Any] = {kind: Pair(answer(kind), answer(kind)) for kind in PAIR_KINDS if reads.want(kind)}
    return Scores(**pairs)
