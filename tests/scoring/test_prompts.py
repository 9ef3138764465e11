"""The state of a prompt is that of the prompt alone, in any packing and on any mesh; a run without it has nothing of it."""

import contextlib
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toy_chat

from mpo_jax import losses
from mpo_jax.data.packing import pack
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.data.row_layout import Capacity, RowShapes, Shapes
from mpo_jax.devices.sharding import batch_to_mesh
from mpo_jax.errors import InputError
from mpo_jax.losses.language_subspaces import Subspaces
from mpo_jax.models.parameters import Frozen
from mpo_jax.scoring.objective import Task, objective
from mpo_jax.scoring.sequences import score
from mpo_jax.training.optim import OptimConfig, make_optimizer
from mpo_jax.training.step import TrainStep, abstract_state, init_state, jit_train_step
from mpo_jax.training.step_arguments import on_mesh, step_numbers
from mpo_jax.types import Packed, Reads, RowLoss, Want

EXAMPLES = toy_chat.examples(8)  # two languages for each of four prompts
LANGUAGES = ("ko", "sw")
MODEL = tiny.model(vocab_size=264)
POLICY, REFERENCE = tiny.two_params(MODEL)
PROMPTS = Reads(Want.PROMPT, Want.PROMPT)


def batch_of(policy: Reads, reference: Reads = Reads(), rows: int = 8, **options):  # noqa: B008
    return Pipeline(EXAMPLES, LANGUAGES, rows, 0, policy, reference, seed=None, **options).batch_at(0)


def without_micro(batch):
    assert batch.weight_B.shape[0] == 1
    return jax.tree.map(lambda x: x[0], batch)


def alone(ids: np.ndarray, layer: int) -> np.ndarray:
    """The state of the last token of one prompt, computed by itself."""
    T, none = len(ids), np.zeros((1, 0), np.int32)
    one = np.ones((1, T), np.int32)
    packed = Packed(ids[None], np.arange(T, dtype=np.int32)[None], one, one, *(none,) * 5)
    hidden, found = MODEL.tapped(POLICY, packed, {"residual": lambda x_STD: x_STD})
    return np.asarray(found["residual"][layer - 1, 0, -1] if layer else hidden[0, -1])


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_state_is_that_of_the_prompt_alone(layer):
    """With answers packed beside it or not; a dominant prompt is packed once, for its first row."""
    for more in (Want.NOTHING, Want.LOGP, Want.HIDDEN | Want.LOGP):
        reads = Reads(Want.PROMPT | more, Want.PROMPT | more, layer=layer)
        batch = without_micro(batch_of(reads))
        np.testing.assert_array_equal(batch.prompt_B, [0, 0, 2, 2, 4, 4, 6, 6])
        scores = jax.jit(score, static_argnums=(0, 3, 4))(MODEL, POLICY, batch.policy, reads, 8)
        for i, example in enumerate(EXAMPLES):
            np.testing.assert_allclose(scores.prompts["target"][i], alone(example.target.prompt, layer), atol=2e-5)
            source = alone(example.source.prompt, layer) if i % 2 == 0 else 0
            np.testing.assert_allclose(scores.prompts["source"][i], source, atol=2e-5)


def test_every_row_gets_the_state_of_its_dominant_prompt():
    seen = []

    class Sees:
        policy_reads, reference_reads = PROMPTS, Reads()

        def __call__(self, policy, reference):
            seen.append(policy)
            return RowLoss(jnp.zeros(8), {}, {})

    objective(Task(MODEL, Sees(), LANGUAGES), POLICY, {}, without_micro(batch_of(PROMPTS)))
    for i, example in enumerate(EXAMPLES):
        np.testing.assert_allclose(seen[0].prompts["source"][i], alone(example.source.prompt, 0), atol=2e-5)
    rows = seen[0].rows
    assert (rows.languages, rows.group, rows.prompt_B.tolist()) == (LANGUAGES, 1, [0, 0, 2, 2, 4, 4, 6, 6])
    assert [LANGUAGES[k] for k in rows.language_B] == [example.language for example in EXAMPLES]


def test_prompts_alone_are_packed_without_answers():
    batch = batch_of(PROMPTS)
    tokens = sum(len(e.target.prompt) for e in EXAMPLES) + sum(len(e.source.prompt) for e in EXAMPLES[::2])
    assert int((batch.policy.segment_ST > 0).sum()) == tokens
    assert (batch.policy.answer_slot_SA == -1).all()
    scores = score(MODEL, POLICY, without_micro(batch).policy, PROMPTS, 8)
    assert (scores.source, scores.target) == (None, None)


@pytest.mark.parametrize("loss", [losses.Mpo(), losses.Kto(), losses.Mpo(retain_by="kl_of_policy")], ids=["mpo", "kto", "kl"])
def test_where_no_prompt_is_read_nothing_of_it_is_there(loss):
    examples = [dataclasses.replace(e, mismatch=e.target) for e in EXAMPLES]
    batch = Pipeline(examples, LANGUAGES, 4, 0, loss.policy_reads, loss.reference_reads).batch_at(0)
    assert batch.prompt_B is None and batch.group == 1
    slots = 2 * 4 * 4  # answers of all kinds of pairs
    assert max(p.pool_slot_ST.max() for p in (batch.policy, batch.reference) if p is not None) < slots
    program = str(jax.make_jaxpr(lambda *a: objective(Task(MODEL, loss, LANGUAGES), *a))(POLICY, REFERENCE, without_micro(batch)))
    assert "eigh" not in program
    grouped = losses.Sum({"loss": loss, "mlc": losses.Mlc()})
    batch = Pipeline(examples, LANGUAGES, 4, 0, grouped.policy_reads, grouped.reference_reads, group=2).batch_at(0)
    program = str(
        jax.make_jaxpr(lambda *a: objective(Task(MODEL, grouped, LANGUAGES), *a))(POLICY, REFERENCE, without_micro(batch))
    )
    assert "eigh" in program


def test_a_layer_that_the_model_lacks_is_an_error():
    reads = Reads(Want.PROMPT, Want.PROMPT, layer=3)
    with pytest.raises(InputError, match=r"loss\.layer=3 is more than the model's 2 layers"):
        score(MODEL, POLICY, without_micro(batch_of(reads)).policy, reads, 8)


def padded(rows, loss, group):
    """One sequence a packed row."""
    count = 8 * len(rows)
    shape = RowShapes(count, (Capacity(96, 64),))
    shapes = Shapes(shape, shape if loss.reference_reads.anything else None)
    return pack(rows, shapes, loss.policy_reads, loss.reference_reads, languages=LANGUAGES, pad_id=0, group=group)


METHODS = {
    "mlc": (losses.Sum({"mpo": losses.Mpo(), "mlc": losses.Mlc()}, weights={"mlc": 0.8}), 2),
    "mlc of a layer": (losses.Mlc(layer=1), 2),
    "cla": (losses.Cla(), 1),
    "lens": (losses.Lens(), 1),
}


@pytest.fixture(autouse=True, scope="module")
def probe(tmp_path_factory):
    """LENS reads its probe from the working folder."""
    with contextlib.chdir(tmp_path_factory.mktemp("probe")):
        means = {language: 1 + np.random.default_rng(i).normal(size=32) for i, language in enumerate(("en", *LANGUAGES))}
        Path("probe.safetensors").write_bytes(Subspaces.of(means).encoded())
        yield


def run(loss, batch, on):
    """(metrics of one step, parameters after it)."""
    optimizer = make_optimizer(OptimConfig(warmup=0.0, eps=1e-3, clip_norm=1e9), 10)
    with jax.set_mesh(on):
        policy, reference = (tiny.place(MODEL, params, on) for params in tiny.two_params(MODEL))
        task = Task(MODEL, loss, LANGUAGES)
        step = jit_train_step(TrainStep(task, optimizer, jnp.float32), abstract_state(policy, optimizer, on))
        state, numbers = init_state(policy, optimizer, on), on_mesh(step_numbers(loss, 1e-3), on)
        with jax.transfer_guard("disallow"):
            state, metrics = step(state, Frozen({}, reference), batch_to_mesh(batch, on), numbers)
        return {k: float(m.value) for k, m in jax.device_get(metrics).items()}, jax.device_get(state.trainable)


def assert_alike(one, other):
    assert one[0].keys() == other[0].keys()
    for name, value in one[0].items():
        np.testing.assert_allclose(other[0][name], value, rtol=2e-4, atol=1e-5, err_msg=name)
    for x, y in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-5 * np.abs(x).max())


@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_the_same_packed_and_padded_in_microbatches_and_on_eight_devices(name):
    loss, group = METHODS[name]
    reads = (loss.policy_reads, loss.reference_reads)
    packed = batch_of(*reads, group=group)
    plain = run(loss, packed, tiny.mesh())
    assert np.isfinite(plain[0]["loss"]) and plain[0]["grad_norm"] > 0
    assert_alike(plain, run(loss, padded(EXAMPLES, loss, group), tiny.mesh()))
    assert_alike(plain, run(loss, batch_of(*reads, shards=4, group=group), tiny.mesh(2, 2, 2)))
    if not loss.policy_reads.contrast:
        assert_alike(plain, run(loss, batch_of(*reads, microbatches=2, group=group), tiny.mesh()))


@pytest.mark.parametrize("name", METHODS)
def test_a_row_that_only_fills_up_changes_nothing(name):
    loss, group = METHODS[name]
    reads = (loss.policy_reads, loss.reference_reads)
    short = Pipeline(EXAMPLES[:6], LANGUAGES, 8, 0, *reads, seed=None, group=group).batch_at(0)
    full = Pipeline(EXAMPLES[:6], LANGUAGES, 6, 0, *reads, seed=None, group=group).batch_at(0)
    assert short.weight_B.tolist() == [[1] * 6 + [0] * 2]
    assert_alike(run(loss, short, tiny.mesh()), run(loss, full, tiny.mesh()))
