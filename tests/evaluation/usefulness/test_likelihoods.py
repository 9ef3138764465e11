"""Likelihoods are those of the packed forward pass of training, on any mesh and in any batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from spelled import Spelled

from mpo_jax.devices.sharding import make_generation_mesh
from mpo_jax.errors import InputError
from mpo_jax.evaluation.usefulness.likelihoods import Continuation, Likelihoods
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.engine import Engine
from mpo_jax.generation.weights import placed
from mpo_jax.types import Packed

MODEL = tiny.model(final_softcap=5.0, logit_scale=0.7, layer_windows=(None, 8))
PARAMS = tiny.two_params(MODEL)[0]


def engine(devices: int = 1, tensor: int = 1, width: int = 1, batch_size: int = 8, positions: int | None = None) -> Engine:
    mesh = make_generation_mesh(width=width, tensor=tensor, devices=jax.devices()[:devices])
    params = placed(MODEL, PARAMS, mesh, jnp.float32, consume=False)
    return Engine(MODEL, params, mesh, Spelled((3,)), Decoding(), batch_size=batch_size, known={}, positions=positions)


LONGEST = 64
hidden = jax.jit(MODEL.hidden)


def logits_TV(tokens: tuple[int, ...]) -> np.ndarray:
    """From the states of training's forward pass of this sequence alone; the rest in numpy."""
    ids, segment = np.zeros((1, LONGEST), np.int32), np.zeros((1, LONGEST), np.int32)
    ids[0, : len(tokens)], segment[0, : len(tokens)] = tokens, 1
    places = {"position_ST": np.arange(LONGEST, dtype=np.int32)[None], "segment_ST": segment, "kv_segment_ST": segment}
    unread = {name: np.zeros((1, 1)) for name in Packed.__dataclass_fields__ if name[:4] in ("answ", "pool")}
    hidden_STD = hidden(PARAMS, Packed(tokens_ST=ids, **places, **unread))
    hidden_TD = np.asarray(hidden_STD, np.float64)[0, : len(tokens)]
    return 5.0 * np.tanh(0.7 * hidden_TD @ np.asarray(MODEL.unembedding(PARAMS), np.float64).T / 5.0)


def by_hand(one: Continuation) -> tuple[float, bool]:
    logp_TV = logits_TV(one.context + one.text)
    logp_TV -= np.log(np.exp(logp_TV).sum(axis=1, keepdims=True))
    before = np.arange(len(one.context) - 1, len(logp_TV) - 1)
    return logp_TV[before, one.text].sum(), bool((logp_TV[before].argmax(axis=1) == one.text).all())


def greedy(context: tuple[int, ...], count: int) -> tuple[int, ...]:
    text: tuple[int, ...] = ()
    while len(text) < count:
        text += (int(logits_TV(context + text)[-1].argmax()),)
    return text


@pytest.fixture(scope="module")
def asked() -> list[Continuation]:
    random = np.random.default_rng(0)
    draw = lambda count: tuple(random.integers(0, tiny.VOCAB, count).tolist())  # noqa: E731
    found = [Continuation(draw(1 + 5 * i % 37), draw(1 + i % 4)) for i in range(12)]
    choices = draw(9)
    found += [Continuation(choices, (token,)) for token in draw(4)]  # read once
    found += [Continuation(draw(2), draw(40))]  # more scored positions than the smallest shape has
    best = greedy(choices, 3)
    return [*found, Continuation(choices, best), Continuation(choices, (*best[:2], best[2] - 1)), found[0]]


@pytest.fixture(scope="module")
def expected(asked) -> list[tuple[float, bool]]:
    return [by_hand(one) for one in asked]


@pytest.mark.parametrize(
    "options",
    [{}, {"batch_size": 3}, {"devices": 8}, {"devices": 8, "tensor": 8}, {"devices": 8, "tensor": 2, "width": 2}],
    ids=str,
)
def test_likelihoods_are_those_of_the_packed_forward(asked, expected, options):
    found = Likelihoods(engine(**options))(asked)
    np.testing.assert_allclose([one.logp for one in found], [logp for logp, _ in expected], rtol=1e-5, atol=1e-5)
    assert [one.greedy for one in found] == [greedy for _, greedy in expected]
    assert found[-3].greedy and not found[-2].greedy, "the model's own text, and one that differs in its last token"


def test_a_sequence_is_read_once_whatever_is_asked_of_it(asked, monkeypatch):
    likelihoods, rows = Likelihoods(engine()), []
    score = Likelihoods._score
    monkeypatch.setattr(Likelihoods, "_score", lambda self, part, *rest: (rows.extend(part), score(self, part, *rest))[1])
    likelihoods(asked)
    assert len(rows) == len({one.read for one in asked}) < len(asked)


def test_there_are_few_programs(asked):
    likelihoods = Likelihoods(engine())
    likelihoods(asked)
    assert likelihoods._program._cache_size() <= 3
    likelihoods(asked[::-1])
    assert likelihoods._program._cache_size() <= 3


def test_nothing_is_asked():
    assert Likelihoods(engine())([]) == []


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (Continuation((1,), ()), "a text without tokens"),
        (Continuation((1, 2, 3), (4, 5)), "likelihood of 4 tokens, .* at most 3"),
    ],
)
def test_what_cannot_be_scored_is_a_sentence(one, said):
    with pytest.raises(InputError, match=said):
        Likelihoods(engine(positions=3))([one])
