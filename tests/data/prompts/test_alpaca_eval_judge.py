"""The judge is asked what AlpacaEval asks, in AlpacaEval's order."""

import hashlib

import pytest

from mpo_jax.data.prompts.alpaca_eval_judge import LANGUAGE, SYSTEM, USER, candidates_name, messages, switched

# alpaca_eval 0.6.6, evaluators_configs/alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt: its two messages, stripped
PUBLISHED = {
    "system": "4c93a9a9d5102753ce3493c0bda3b52da607434e8e7c4932b34f7385426255cd",
    "user": "83eb2e1a91755f612f4c1a4ec3810b7e1074a5dfff705a1fbc181829932bfd07",
}

ORDERS = [
    ("What is tea?", True),
    ("Chai ni nini?", False),
    ("What is coffee?", True),
    ("¿Qué es el té?", False),
]  # what its utils.random_seeded_choice draws with seed 0


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_prompt_is_the_published_one_with_the_sentence_on_languages():
    assert digest(SYSTEM) == PUBLISHED["system"]
    assert USER.count(LANGUAGE) == 1 and digest(USER.replace(f"{LANGUAGE} ", "")) == PUBLISHED["user"]


@pytest.mark.parametrize(("instruction", "first"), ORDERS)
def test_the_order_is_that_of_alpaca_eval(instruction, first):
    assert switched(instruction) is first


@pytest.mark.parametrize("instruction", [name for name, _ in ORDERS])
def test_texts_are_put_in_as_they_are(instruction):
    system, user = messages(instruction, "the {output_2} reference", "the {instruction} candidate")
    assert (system.role, user.role) == ("system", "user")
    assert f'"instruction": """{instruction}"""' in user.content
    name = candidates_name(instruction)
    named = f'"model_identifier": "{name}",\n        "output": """the {{instruction}} candidate"""'
    assert named in user.content and "the {output_2} reference" in user.content
