"""A model on these devices keeps its programs, gives its memory back, and goes on from the first words of an answer."""

import numpy as np
import pytest
import toy_chat

from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.generation.base import Decoding, Request
from mpo_jax.recipes.own_model import OnDevices

ASKED = (Message("user", "Is tea warm?"),)


@pytest.fixture
def model(world):
    return OnDevices(str(world / "model"), template="hf", dtype="float32")


def answers(model, opening):
    request = Request(Prompt("tea", "en", ASKED), 0, 0, ASKED, "key")
    ((_, response),) = model.responder(Decoding(max_new_tokens=6), opening).respond([request])
    return response.tokens, response.prompt_tokens


def test_an_opened_answer_goes_on_from_its_first_words(model):
    (_, asked), (_, longer) = answers(model, ""), answers(model, "It is")
    assert longer == asked + len("It is"), "a byte is a token"
    responder = model.responder(Decoding(max_new_tokens=6), "It is")
    tokens = responder.conversation.tokens(ASKED)
    assert toy_chat.tokenizer().decode(tokens).endswith("<model>\nIt is")
    assert np.array_equal(tokens[:asked], model.conversation.tokens(ASKED))
    assert responder.settings["chat"]["opening"] == "It is"


def test_the_last_responder_is_kept_and_given_back_with_the_weights(model):
    first = model.responder(Decoding(max_new_tokens=6))
    assert model.responder(Decoding(max_new_tokens=6)) is first
    assert model.responder(Decoding(max_new_tokens=7)) is not first
    engine = model.engine
    assert first.params is engine.params, "weights are not copied"
    model.release()
    assert "engine" not in vars(model) and model.engine is not engine
    assert model.known.keys() == {"model"}
