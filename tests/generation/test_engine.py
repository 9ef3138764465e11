"""An answer depends on its prompt, seed and sample, and on nothing that is computed beside it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from spelled import Spelled, request

from mpo_jax.devices.sharding import make_generation_mesh
from mpo_jax.errors import InputError
from mpo_jax.generation import shapes
from mpo_jax.generation.base import Decoding, Request
from mpo_jax.generation.engine import Engine
from mpo_jax.generation.shapes import Asked, groups, rounded, row_of, stacked
from mpo_jax.generation.weights import abstract_placed, placed

MODEL = tiny.model()
PARAMS = tiny.two_params(MODEL)[0]
STOP = (3, 5)
SAMPLED = Decoding(temperature=1.0, max_new_tokens=6)


def asked(number: int) -> Request:
    return request(f"p{number}", np.random.default_rng(number).integers(0, tiny.VOCAB, 3 + 7 * number % 45))


def engine(decoding: Decoding = SAMPLED, *, devices: int = 1, tensor: int = 1, width: int = 1, **options) -> Engine:
    mesh = make_generation_mesh(width=width, tensor=tensor, devices=jax.devices()[:devices])
    params = placed(MODEL, PARAMS, mesh, jnp.float32, consume=False)
    return Engine(MODEL, params, mesh, Spelled(STOP), decoding, known={}, **({"batch_size": 32} | options))


def answers(of: Engine, requests) -> dict[str, tuple]:
    return {question.key: response.tokens for question, response in of.respond(requests)}


@pytest.fixture(scope="module")
def together():
    requests = [asked(number) for number in range(32)]
    return requests, answers(engine(), requests)


def test_alone_reversed_and_in_small_batches(together):
    requests, expected = together
    assert len(expected) == 32 and len(set(expected.values())) > 16
    assert answers(engine(), requests[7:8]) == {requests[7].key: expected[requests[7].key]}
    assert answers(engine(batch_size=5), requests[::-1]) == expected


@pytest.mark.parametrize(("tensor", "width"), [(1, 1), (8, 1), (2, 2)])
def test_on_eight_devices(together, tensor, width):
    requests, expected = together
    assert answers(engine(devices=8, tensor=tensor, width=width, batch_size=16), requests) == expected


def test_an_engine_may_hold_weights_for_a_while(together):
    """Made of their shapes alone; it keeps nothing afterwards, and compiles nothing again."""
    requests, expected = together
    mesh = make_generation_mesh(width=1, tensor=1, devices=jax.devices()[:1])
    declared = abstract_placed(MODEL, mesh, jnp.float32)
    of = Engine(MODEL, declared, mesh, Spelled(STOP), SAMPLED, batch_size=32, known={})
    others = tiny.two_params(MODEL)[1]
    compiled = []
    for params, same in ((PARAMS, True), (others, False), (PARAMS, True)):
        with of.holding(placed(MODEL, params, mesh, jnp.float32, consume=False)):
            assert (answers(of, requests) == expected) == same
            assert jax.tree.leaves(of.held[1])
        assert of.held == (declared, None)
        compiled.append([program._cache_size() for programs in of._programs.values() for program in programs])
    assert compiled == [compiled[0]] * 3


def test_seeds_samples_languages_and_turns_draw_apart(together):
    one = asked(3)
    others = [
        (SAMPLED, dataclasses.replace(one, sample=1)),
        (SAMPLED, dataclasses.replace(one, turn=1)),
        (SAMPLED, dataclasses.replace(one, prompt=dataclasses.replace(one.prompt, language="bn"))),
        (SAMPLED, dataclasses.replace(one, prompt=dataclasses.replace(one.prompt, id="another"))),
        (dataclasses.replace(SAMPLED, seed=1), one),
    ]
    texts = [next(iter(answers(engine(decoding), [question]).values())) for decoding, question in [(SAMPLED, one), *others]]
    assert len(set(texts)) == len(texts)


def test_an_answer_says_why_it_ends(together):
    requests, _ = together
    seen = set()
    for question, response in engine().respond(requests):
        seen.add(response.stopped)
        assert response.new_tokens == len(response.tokens) <= 6
        assert (response.tokens[-1] in STOP) == (response.stopped == "end")
        assert response.stopped == "end" or response.new_tokens == 6
        assert response.prompt_tokens == len(question.messages[0].content.split())
    assert seen == {"end", "length"}


def test_a_prompt_that_the_model_cannot_read_is_refused_before_anything_is_written():
    with pytest.raises(InputError, match=r"Prompt 'p3' in 'sw' has 24 tokens .* reads at most 24, .* shorten it"):
        next(engine(positions=24).respond([asked(0), asked(3)]))


def test_an_answer_ends_where_the_model_can_read_no_more():
    (response,) = (response for _, response in engine(Decoding(max_new_tokens=6), positions=26).respond([asked(3)]))
    assert (response.new_tokens, response.stopped) == (2, "length")


def test_what_determines_an_answer_is_in_the_settings():
    settings = engine(dataclasses.replace(SAMPLED, samples=4)).settings
    assert settings["dtype"] == "float32" and settings["chat"] == {"template": "numbers"}
    assert settings["decoding"] == {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 6, "seed": 0}


def test_rows_that_have_ended_are_counted():
    of = engine(Decoding(max_new_tokens=40))
    written = answers(of, [asked(number) for number in range(8)])
    assert of.spent.tokens == sum(map(len, written.values()))
    assert of.spent.slots == 8 * max(map(len, written.values()))
    assert "rows that had ended" in str(of.spent)


def test_there_are_few_shapes():
    assert [rounded(n) for n in (1, 32, 33, 41, 65, 81, 200, 1000)] == [32, 32, 40, 48, 80, 96, 224, 1024]
    assert all(n <= rounded(n) <= max(32, 1.25 * n) for n in range(1, 5000))
    assert len({rounded(n) for n in range(1, 4097)}) < 32


@pytest.mark.parametrize("read", [1024, 200, 50])
@pytest.mark.parametrize("copies", [1, 2, 8])
def test_every_request_has_a_row_and_each_copy_its_share_of_the_long_ones(copies, read, monkeypatch):
    monkeypatch.setattr(shapes, "READ", read)
    part = [Asked(None, np.full(100 - 3 * number, number + 1, np.int32), number) for number in range(16)]
    arrays = stacked(part, 16, rounded(100), copies)
    rows = [row_of(number, 16, copies) for number in range(16)]
    assert sorted(rows) == list(range(16))
    assert {row // (16 // copies) for row in rows[:copies]} == set(range(copies)), "the longest are on different copies"
    assert [arrays["limit_B"][row] for row in rows] == list(range(16))
    assert all(np.all(arrays["tokens_BT"][row, : len(one.tokens)] == one.tokens[0]) for row, one in zip(rows, part, strict=True))
    found = np.zeros(16, np.int32)
    widths = []
    for first, tokens_GT, length_G in groups(arrays, copies):
        each = len(length_G) // copies
        for copy in range(copies):
            found[copy * 16 // copies + first : copy * 16 // copies + first + each] = length_G[copy * each : (copy + 1) * each]
        assert tokens_GT.shape[1] == min(rounded(100), rounded(int(length_G.max())))
        assert np.array_equal(np.count_nonzero(tokens_GT, axis=1), length_G)
        widths.append(tokens_GT.shape[1])
    assert np.array_equal(found, arrays["length_B"])
    assert widths == sorted(widths, reverse=True)
