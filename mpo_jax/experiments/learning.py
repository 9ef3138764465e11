"""How is a small model trained? With the library's packing, objective and step, a whole run in one call.

All batches of a run are on the device and `jax.lax.scan` goes through them: a method is compiled once, and its learning rate, its
seeds and the noise of its data are arguments.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mpo_jax.data.chat import Example
from mpo_jax.data.packing import pack
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.data.row_balance import balanced, needed
from mpo_jax.data.row_layout import Capacity, RowShapes, Shapes, read_by, round_up, spans
from mpo_jax.experiments.world import LANGUAGES, PAD, VOCABULARY
from mpo_jax.losses.base import PreferenceLoss
from mpo_jax.models.decoder import DecoderConfig, Model
from mpo_jax.models.parameters import Frozen, joined, uncut
from mpo_jax.scoring.objective import Task
from mpo_jax.training.optim import OptimConfig, make_optimizer
from mpo_jax.training.step import TrainStep
from mpo_jax.training.step_arguments import step_numbers
from mpo_jax.training.trainable import split
from mpo_jax.types import Array, Batch, Params, Reads, TrainState

MODEL = Model(
    DecoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        layers=2,
        heads=4,
        kv_heads=4,
        head_dim=16,
        ffn=128,
        norm_eps=1e-5,
        rope_theta=10_000.0,
        query_scale=16**-0.5,
        layer_windows=(None, None),
        tied=True,
    ),
    remat="none",
)
SEQUENCES_A_ROW = 6  # about: packed rows are short, since a CPU attends within them one after the other
STEP = 32  # lengths of packed rows are multiples of it, so that seeds share their shapes and so their programs

Train = Callable[[Params, Array, Batch], Params]


def stacked(
    examples: Sequence[Example], order: Sequence[Sequence[int]], policy: Reads, reference: Reads, group: int = 1
) -> Batch:
    """The batches of these rows, all of one shape, along a leading axis of updates. `group`: see `types.Batch`."""
    batches = [[examples[i] for i in rows] for rows in order]
    assert len({len(batch) for batch in batches}) == 1
    parts = {name: reads for name, reads in read_by(policy, reference).items() if reads.anything}
    named: dict[str, Any] = {name: _row_shapes(batches, reads) for name, reads in parts.items()}
    host = [pack(batch, Shapes(**named), policy, reference, languages=LANGUAGES, pad_id=PAD, group=group) for batch in batches]
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *host)


def _row_shapes(batches: Sequence[Sequence[Example]], reads: Reads) -> RowShapes:
    found = [spans(batch, reads) for batch in batches]
    rows = -(-max(map(len, found)) // SEQUENCES_A_ROW)
    tokens, answers = np.asarray([needed(balanced(batch, rows)) for batch in found]).max(axis=0).tolist()
    return RowShapes(rows, (Capacity(round_up(tokens, STEP), round_up(answers, STEP)),))


def order_of(examples: Sequence[Example], batch_size: int, epochs: int, seed: int, group: int = 1) -> list[list[int]]:
    """The rows of every update: a new permutation in each epoch, without an incomplete last batch. With a `group` above 1 the
    rows of a dominant prompt, which are so many, come together."""
    reads = Reads()
    pipeline = Pipeline(examples, LANGUAGES, batch_size, PAD, reads, reads, seed=seed, epochs=epochs, group=group)
    return [rows for k in range(pipeline.steps) if len(rows := pipeline.rows_at(k)) == batch_size]


def make_train(loss: PreferenceLoss, optim: OptimConfig, frozen: str = "") -> Train:
    """(parameters, peak learning rate, stacked batches) -> parameters after all updates. One program serves all learning rates.
    The initial parameters are also the frozen reference. `frozen`: what is not trained, as in `TrainConfig.frozen`."""
    task = Task(MODEL, loss, LANGUAGES)

    @jax.jit
    def train(params: Params, lr: Array, batches: Batch) -> Params:
        optimizer = make_optimizer(optim, batches.weight_B.shape[0])
        trainable, held = split(params, frozen)
        step, fixed, numbers = TrainStep(task, optimizer, jnp.float32), Frozen(held, params), step_numbers(loss, lr)
        state = TrainState(jnp.int32(0), trainable, optimizer.transform.init(trainable))
        last, _ = jax.lax.scan(lambda state, batch: (step(state, fixed, batch, numbers)[0], None), state, batches)
        return uncut(joined(last.trainable, held))

    return train
