"""How probable is a text after another, and would the model itself write it?

A sequence is read once, whatever is asked of it: the choices of a question that are one token each are scored in one row.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mpo_jax.devices import processes
from mpo_jax.devices.sharding import everywhere, host_to_global, shards
from mpo_jax.errors import InputError
from mpo_jax.generation.engine import Engine
from mpo_jax.generation.shapes import SMALLEST, rounded
from mpo_jax.generation.weights import as_declared
from mpo_jax.models.attention.api import attention
from mpo_jax.models.decoder import Attend, Model
from mpo_jax.scoring.token_argmax import token_argmaxes
from mpo_jax.scoring.token_logprob import token_logps
from mpo_jax.types import Array, Params, Places


@dataclasses.dataclass(frozen=True)
class Continuation:
    """Token ids of a text and of what it is continued by, each at least one."""

    context: tuple[int, ...]
    text: tuple[int, ...]

    @property
    def read(self) -> tuple[int, ...]:
        """What the model reads to score it: all but the last token."""
        return (self.context + self.text)[:-1]


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """`logp`: nats, the sum over the continuation's tokens. `greedy`: whether each of them is the most probable one."""

    logp: float
    greedy: bool


@dataclasses.dataclass
class _Row:
    """A sequence that is read, and what is scored of it: (number of the continuation, its tokens)."""

    read: tuple[int, ...]
    asked: list[tuple[int, tuple[int, ...]]]

    @property
    def scored(self) -> int:
        return sum(len(text) for _, text in self.asked)


class Likelihoods:
    """Scores continuations under the weights of an engine, where they lie. Where each process has a copy of them, each scores a
    share. Programs are compiled for few shapes, and kept."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._program = jax.jit(functools.partial(token_scores, engine.model))

    def __call__(self, asked: Sequence[Continuation]) -> list[Likelihood]:
        """In the order of `asked`; all processes must ask for the same. Errors: a continuation without tokens, or one that the
        model cannot read whole."""
        for one in asked:
            if not one.context or not one.text:
                raise InputError("A task asks for the likelihood of a text without tokens: each choice must have a text.")
            if self._engine.positions is not None and len(one.read) > self._engine.positions:
                raise InputError(
                    f"A task asks for the likelihood of {len(one.read)} tokens, but the model reads at most "
                    f"{self._engine.positions}: cut its context."
                )
        processes.agree({"questions of the tasks": [(one.context, one.text) for one in asked]})
        rows = sorted(_rows(asked), key=lambda row: (-len(row.read), row.read))
        found = np.zeros((len(asked), 2))
        parts = list(_batches(rows, self._engine.batch_size, shards(self._engine.mesh, "batch")))
        mine = parts if self._engine.shared else parts[jax.process_index() :: jax.process_count()]
        for part, count in processes.progress(mine, desc="likelihoods", unit="batch", leave=False):
            self._score(part, count, found)
        if jax.process_count() > 1 and not self._engine.shared:
            with jax.transfer_guard("allow"):
                told = np.asarray(multihost_utils.process_allgather(found.view(np.uint32)))  # as float64 they would be rounded
            found = told.view(np.float64).sum(axis=0)  # each has zeros for the others' share
        return [Likelihood(float(logp), bool(greedy)) for logp, greedy in found]

    def _score(self, part: Sequence[_Row], count: int, found: np.ndarray) -> None:
        """Writes (log-probability, whether greedy) of all that is asked of these rows into `found`, float64 [., 2]."""
        engine = self._engine
        arrays = _arrays(part, count)
        on_mesh = host_to_global(arrays, engine.mesh, ("batch",))
        with jax.set_mesh(engine.mesh):
            logp_SA, best_SA = jax.device_get(self._program(engine.params, **on_mesh))
        for row, logp_A, best_A in zip(part, logp_SA, best_SA, strict=False):  # rows that only fill up the batch come last
            start = 0
            for number, text in row.asked:
                own = slice(start, start + len(text))
                found[number] = logp_A[own].sum(dtype=np.float64), np.array_equal(best_A[own], text)
                start = own.stop


def token_scores(
    model: Model, params: Params, tokens_ST: Array, length_S: Array, at_SA: Array, label_SA: Array
) -> tuple[Array, Array]:
    """(log-probability of each label, nats, f32 (S, A); the most probable token there, int32 (S, A)).

    `params` are those of `weights.placed`; row s is `length_S[s]` tokens from its first position on, and label (s, a) is
    predicted by the state of position `at_SA[s, a]`."""
    params = as_declared(model, params)
    c = model.config
    position_ST = jnp.broadcast_to(jnp.arange(tokens_ST.shape[1], dtype=jnp.int32)[None], tokens_ST.shape)
    places = Places(position_ST, (position_ST < length_S[:, None]).astype(jnp.int32))

    def attend_of(window: int | None) -> Attend:
        how: dict[str, Any] = {"scale": c.query_scale, "softcap": c.attn_softcap, "window": window}
        return lambda q_STNH, k_STKH, v_STKH: attention(q_STNH, k_STKH, v_STKH, places, places, **how)

    hidden_STD = model.unrolled(params, tokens_ST, position_ST, [attend_of(window) for window in c.layer_windows])
    h_SAD = model.readout(jnp.take_along_axis(hidden_STD, at_SA[..., None], axis=1))
    unembed_VD = model.unembedding(params)
    logp_SA: Array = token_logps(h_SAD, unembed_VD, label_SA, model.final_softcap)
    return everywhere(logp_SA), everywhere(token_argmaxes(h_SAD, unembed_VD, model.final_softcap))


def _rows(asked: Sequence[Continuation]) -> list[_Row]:
    rows: dict[tuple[int, ...], _Row] = {}
    for number, one in enumerate(asked):
        rows.setdefault(one.read, _Row(one.read, [])).asked.append((number, one.text))
    return list(rows.values())


def _batches(rows: Sequence[_Row], batch_size: int, parts: int) -> Iterator[tuple[Sequence[_Row], int]]:
    """(rows, how many rows the arrays have): all batches have the same number, a multiple of `parts`."""
    whole = -(-min(batch_size, max(len(rows), 1)) // parts) * parts
    for start in range(0, len(rows), whole):
        yield rows[start : start + whole], whole


def _arrays(part: Sequence[_Row], count: int) -> dict[str, np.ndarray]:
    """The arguments of `token_scores`, by name. Scored positions are rounded up to a power of two."""
    T = rounded(max(len(row.read) for row in part))
    A = SMALLEST
    while max(row.scored for row in part) > A:
        A *= 2
    tokens_ST, length_S = np.zeros((count, T), np.int32), np.ones(count, np.int32)
    at_SA, label_SA = np.zeros((count, A), np.int32), np.zeros((count, A), np.int32)
    for s, row in enumerate(part):
        length_S[s] = len(row.read)
        tokens_ST[s, : len(row.read)] = row.read
        start = 0
        for _, text in row.asked:
            own = slice(start, start + len(text))
            at_SA[s, own] = np.arange(len(row.read) - len(text), len(row.read))
            label_SA[s, own] = text
            start = own.stop
    return {"tokens_ST": tokens_ST, "length_S": length_S, "at_SA": at_SA, "label_SA": label_SA}
