"""Which programs does a run compile? The same ones for a run with arrays and for a plan with nothing but shapes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mpo_jax.models.decoder import Model
from mpo_jax.scoring.objective import Task
from mpo_jax.scoring.reference import stored_reads
from mpo_jax.scoring.sequences import make_score_step
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.optim import make_optimizer
from mpo_jax.training.step import TrainStep, abstract_state, jit_train_step, make_eval_step, step_programs
from mpo_jax.training.trainable import abstract_trainable
from mpo_jax.types import Reads, TrainState, Want


@dataclasses.dataclass(frozen=True)
class RunPrograms:
    """Jitted functions, compiled when they are called or lowered. `state` has the shapes and shardings of the state; `score`
    scores pairs for a cached reference, with one program for each kind of score."""

    state: TrainState
    step: TrainStep
    train: Any  # (state, frozen, batch, numbers) -> (state, metrics)
    evaluate: jax.stages.Wrapped  # (trainable, frozen, batch, numbers) -> metrics, scores of both sides
    measure: jax.stages.Wrapped  # (params, batch) -> scores of both sides; zeros of one that is not packed
    score: dict[Want, jax.stages.Wrapped]  # (reference's params, batch) -> scores

    @property
    def train_programs(self) -> list[jax.stages.Wrapped]:
        """The programs that make up `train`: one, or two where moments are offloaded to the host."""
        return step_programs(self.step, self.state)


def run_programs(config: TrainConfig, model: Model, languages: tuple[str, ...], updates: int, mesh: Mesh) -> RunPrograms:
    """All programs of a run of this many updates with these languages. The devices of `mesh` need not exist on this machine."""
    optimizer, dtype = make_optimizer(config.optim, updates), jnp.dtype(config.compute_dtype)
    state = abstract_state(abstract_trainable(model, config.frozen, config.lora, mesh), optimizer, mesh)
    stored = stored_reads(config.loss.reference_reads) if config.reference == "cached" else {}
    task = Task(model, config.loss, languages)
    step = TrainStep(task, optimizer, dtype)
    return RunPrograms(
        state,
        step,
        jit_train_step(step, state),
        make_eval_step(task, dtype),
        make_score_step(model, dtype, Reads.answers(source=True)),
        {want: make_score_step(model, config.reference_dtype, reads) for want, reads in stored.items()},
    )
