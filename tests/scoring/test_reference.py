"""A cached reference gives the numbers of a live one, scores what it must once, and is never taken for another."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toy_chat

from mpo_jax.data.chat import TokenPair
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.devices.sharding import batch_to_mesh, shards
from mpo_jax.errors import InputError
from mpo_jax.losses import Mpo
from mpo_jax.models.parameters import Frozen
from mpo_jax.scoring.objective import Task, objective
from mpo_jax.scoring.reference import cached_reference, stored_reads
from mpo_jax.scoring.reference_store import ScoreStore
from mpo_jax.scoring.sequences import make_score_step, score
from mpo_jax.training.optim import OptimConfig, make_optimizer
from mpo_jax.training.step import TrainStep, abstract_state, init_state, jit_train_step
from mpo_jax.training.step_arguments import step_numbers
from mpo_jax.types import POOLINGS, Reads, Want

MODEL = tiny.model(vocab_size=264)
POLICY, REFERENCE = tiny.two_params(MODEL)
IDENTITY = {"weights": "w", "tokenizer": "t", "template": "hf", "truncation": "keep_header", "max_length": 1024}
BOTH = Want.LOGP | Want.HIDDEN


def rows(count: int = 10):
    """Two rows share each dominant pair."""
    examples = toy_chat.examples(count)
    return [dataclasses.replace(e, source=examples[i - i % 2].source) for i, e in enumerate(examples)]


def first_source() -> TokenPair:
    pair = rows()[0].source
    assert pair is not None
    return pair


def pipeline(on, loss=None, **changes) -> Pipeline:
    loss = loss or Mpo()
    reads = {"policy": loss.policy_reads, "reference": loss.reference_reads}
    return Pipeline(rows(), ("ko", "sw"), **{"batch_size": 4, "pad_id": 1, "shards": shards(on, "batch"), **reads, **changes})


def never():
    raise AssertionError("the reference was loaded")


def cached(folder, on, pipelines, reads, *, load=None, identity=IDENTITY, dtype="float32"):
    load = load or functools.partial(tiny.place, MODEL, jax.tree.map(jnp.copy, REFERENCE), on)
    steps = {want: make_score_step(MODEL, dtype, of) for want, of in stored_reads(reads).items()}
    return cached_reference(MODEL, load, reads, steps, pipelines, on, folder=folder, identity=identity, dtype=dtype)


def joined(of: Pipeline, scores) -> Pipeline:
    return dataclasses.replace(of, reference=Reads(), scores=scores)


@pytest.fixture
def appended(monkeypatch) -> list[int]:
    """How many pairs each write of a store held."""
    counts, append = [], ScoreStore.append

    def counting(self, values):
        append(self, values)
        counts.append(len(next(iter(values.values()))))

    monkeypatch.setattr(ScoreStore, "append", counting)
    return counts


@pytest.mark.parametrize("pooling", POOLINGS)
def test_scores_are_those_of_a_live_reference(tmp_path, pooling):
    """Both sides, row for row, in two microbatches, the filling of the last batch included."""
    on, reads = tiny.mesh(), Reads(source=BOTH, target=BOTH, pooling=pooling)
    with jax.set_mesh(on):
        live = pipeline(on, reference=reads, microbatches=2)
        stored = joined(live, cached(tmp_path, on, [live], reads))
        params = tiny.place(MODEL, REFERENCE, on)
        step = jax.jit(lambda params, batch: jax.lax.map(lambda packed: score(MODEL, params, packed, reads, 2), batch.reference))
        for k in (0, 2):
            expected = step(params, batch_to_mesh(live.batch_at(k), on))
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), stored.batch_at(k).reference, expected
            )


@pytest.mark.parametrize(
    ("pooling", "shape"), [pytest.param("mean", (1, 1, 1), marks=pytest.mark.slow), ("mean_padded", (2, 2, 2))]
)
def test_three_updates_are_those_of_a_live_reference(tmp_path, pooling, shape):
    on, loss = tiny.mesh(*shape), Mpo(retain_pooling=pooling)
    with jax.set_mesh(on):
        live = pipeline(on, loss, batch_size=10)  # all rows, so that one shape is compiled
        stored = joined(live, cached(tmp_path, on, [live], loss.reference_reads))
        optimizer = make_optimizer(OptimConfig(warmup=0.0), 3)
        ends = []
        for of, ref_params in ((live, tiny.place(MODEL, REFERENCE, on)), (stored, {})):
            state = init_state(tiny.place(MODEL, jax.tree.map(jnp.copy, POLICY), on), optimizer, on)
            task = Task(MODEL, loss, ("ko", "sw"))
            step = jit_train_step(TrainStep(task, optimizer, jnp.float32), abstract_state(state.trainable, optimizer, on))
            metrics = []
            for k in range(3):
                state, values = step(state, Frozen({}, ref_params), batch_to_mesh(of.batch_at(k), on), step_numbers(loss, 1e-4))
                metrics.append(jax.device_get(values))
            ends.append((jax.device_get(state.trainable), metrics))
    (params, metrics), (cached_params, cached_metrics) = ends
    for ours, like in zip(cached_metrics, metrics, strict=True):
        tiny.assert_metrics(*({name: mean.value for name, mean in values.items()} for values in (ours, like)))
    # Adam divides each gradient by its own size, so that one of nearly 0 shows its rounding
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), cached_params, params)


def test_the_mode_changes_nothing_else_of_a_batch(tmp_path):
    on = tiny.mesh()
    live = pipeline(on)
    with jax.set_mesh(on):
        stored = joined(live, cached(tmp_path, on, [live], Mpo(retain=0.0).reference_reads))
    for k in range(6):
        assert stored.rows_at(k) == live.rows_at(k)
        batch = stored.batch_at(k)
        assert batch.reference is not None
        expected = dataclasses.replace(live.batch_at(k), reference=None)
        assert batch.policy.tokens_ST.shape == expected.policy.tokens_ST.shape
        jax.tree.map(np.testing.assert_array_equal, dataclasses.replace(batch, reference=None), expected)


def test_a_cached_step_has_no_forward_of_the_reference(tmp_path):
    on, loss = tiny.mesh(), Mpo()
    live = pipeline(on)
    with jax.set_mesh(on):
        stored = joined(live, cached(tmp_path, on, [live], loss.reference_reads))

    def products(function, *args) -> int:
        return str(jax.make_jaxpr(function)(POLICY, *args)).count("dot_general")

    batch, batch_with_scores = (jax.tree.map(lambda x: x[0], of.batch_at(0)) for of in (live, stored))
    policy = products(lambda params, batch: score(MODEL, params, batch.policy, loss.policy_reads, 4), batch)
    scored = functools.partial(objective, Task(MODEL, loss, ("ko", "sw")))
    assert products(scored, {}, batch_with_scores) == policy
    assert products(scored, REFERENCE, batch) > policy


def test_each_distinct_pair_is_scored_once(tmp_path, appended, capsys):
    """Over training and held-out rows together; a second run, of the same rows in another order, scores nothing."""
    on, reads = tiny.mesh(), Reads(source=Want.LOGP, target=Want.LOGP)
    every = rows()
    train, held_out = (dataclasses.replace(pipeline(on), examples=part) for part in (every[:7], every[7:]))
    with jax.set_mesh(on):
        first = cached(tmp_path, on, [train, held_out], reads)
        assert sum(appended) == 5 + 10
        assert "cached, 5 source pairs and 10 target pairs for 10 rows" in (line := capsys.readouterr().out)
        assert f"{tmp_path} (15 to score); 0.000" in line
        appended.clear()
        other_split = [dataclasses.replace(train, examples=every[:3:-1]), dataclasses.replace(train, examples=every[:4])]
        second = cached(tmp_path, on, other_split, reads, load=never)
        assert "(0 to score)" in capsys.readouterr().out
    assert not appended
    jax.tree.map(np.testing.assert_array_equal, second(every, 1), first(every, 1))


def test_the_reference_leaves_memory(tmp_path):
    on = tiny.mesh()
    params = tiny.place(MODEL, jax.tree.map(jnp.copy, REFERENCE), on)
    with jax.set_mesh(on):
        cached(tmp_path, on, [pipeline(on)], Reads(source=Want.LOGP), load=lambda: params)
    assert all(x.is_deleted() for x in jax.tree.leaves(params))


def test_an_interrupted_store_is_completed(tmp_path, appended, monkeypatch):
    on, reads = tiny.mesh(), Reads(target=Want.LOGP)
    append = ScoreStore.append

    def interrupted(self, values):
        if appended:
            raise KeyboardInterrupt
        append(self, values)

    with jax.set_mesh(on):
        whole = cached(tmp_path / "whole", on, [pipeline(on)], reads)
        assert appended == [4, 4, 2]
        appended.clear()
        with monkeypatch.context() as patch:
            patch.setattr(ScoreStore, "append", interrupted)
            with pytest.raises(KeyboardInterrupt):
                cached(tmp_path / "cut", on, [pipeline(on)], reads)
        assert appended == [4]
        resumed = cached(tmp_path / "cut", on, [pipeline(on)], reads)
    assert appended == [4, 4, 2]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), resumed(rows(), 1), whole(rows(), 1))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder, on = tmp_path_factory.mktemp("kept"), tiny.mesh()
    with jax.set_mesh(on):
        cached(folder, on, [pipeline(on)], Reads(source=Want.LOGP))
    return folder


@pytest.mark.parametrize("part", [*IDENTITY, "dtype", "reads", "pooling", "pad_id", "pairs", "tokens"])
def test_whatever_determines_the_scores_is_in_the_key(kept, part):
    on = tiny.mesh()
    of, identity, dtype, reads = pipeline(on), IDENTITY, "float32", Reads(source=Want.LOGP)
    if part in IDENTITY:
        identity = IDENTITY | {part: "other"}
    elif part == "dtype":
        dtype = "bfloat16"
    elif part == "reads":
        reads = Reads(source=BOTH)
    elif part == "pairs":
        of = dataclasses.replace(of, examples=rows()[2:])
    elif part == "tokens":
        changed = first_source()
        changed.prompt[3] ^= 1
        of = dataclasses.replace(of, examples=[dataclasses.replace(e, source=changed) for e in rows()[:2]] + rows()[2:])
    elif part == "pooling":
        reads = dataclasses.replace(reads, pooling="last")
    else:
        of = dataclasses.replace(of, pad_id=2)
    with pytest.raises(InputError, match=rf"\b{part} was .* and is now .*reference_store"):
        cached(kept, on, [of], reads, load=never, identity=identity, dtype=dtype)


def test_a_boundary_that_moves_makes_another_pair(kept):
    """The same ids in a row, cut elsewhere between prompt and answer."""
    on, pair = tiny.mesh(), first_source()
    pair = dataclasses.replace(pair, prompt=pair.prompt[:-1], chosen=np.concatenate([pair.prompt[-1:], pair.chosen]))
    of = dataclasses.replace(pipeline(on), examples=[dataclasses.replace(e, source=pair) for e in rows()[:2]] + rows()[2:])
    with pytest.raises(InputError, match="tokens was"):
        cached(kept, on, [of], Reads(source=Want.LOGP), load=never)


def test_scores_that_are_not_finite_are_refused_with_the_row(tmp_path):
    on = tiny.mesh()
    broken = tiny.place(MODEL, jax.tree.map(lambda x: x * jnp.nan, REFERENCE), on)
    with jax.set_mesh(on), pytest.raises(InputError, match=r"logp_B of row \d is not finite"):
        cached(tmp_path, on, [pipeline(on)], Reads(source=Want.LOGP), load=lambda: broken)
    assert not any(tmp_path.iterdir())
