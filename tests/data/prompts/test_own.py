import json

import pytest

from mpo_jax.data.prompts.base import Message, misplaced
from mpo_jax.data.prompts.registry import read_prompts
from mpo_jax.errors import InputError

ONE = {"id": "a", "language": "sw", "prompt": "Chai ni moto?"}
SYSTEM, USER, ASSISTANT = ({"role": role, "content": f"the {role}'s"} for role in ("system", "user", "assistant"))


@pytest.fixture
def read(tmp_path):
    def reading(*values):
        path = tmp_path / "own.jsonl"
        path.write_text("\n".join(map(json.dumps, values)), encoding="utf-8")
        return read_prompts(path)

    return reading


def test_a_conversation_and_its_follow_ups(read):
    (prompt,) = read(ONE | {"prompt": [SYSTEM, USER, ASSISTANT, USER], "follow_ups": ["And then?", "Why?"], "topic": "tea"})
    assert [message.role for message in prompt.messages] == ["system", "user", "assistant", "user"]
    assert prompt.messages[0] == Message("system", "the system's")
    assert prompt.follow_ups == ("And then?", "Why?")
    assert prompt.fields == {"topic": "tea"}


def test_text_is_kept_as_it_is(read):
    assert read(ONE | {"prompt": " \u2028two\nlines "})[0].messages == (Message("user", " \u2028two\nlines "),)


def test_fields_may_be_called_like_those_of_other_sets(read):
    fields = {"category": "tea", "category_id": 1, "target": "Sure", "turns": 2, "question_id": 3}
    assert read(ONE | fields)[0].fields == fields


WRONG = {
    "no language": ({"id": "a", "prompt": "x"}, "line 2: the key 'language' is missing"),
    "no id": ({"language": "sw", "prompt": "x"}, "line 2: the key 'id' is missing"),
    "a number as id": (ONE | {"id": 3}, "'id' must be a string, not a number"),
    "an empty language": (ONE | {"language": " "}, "'language' is empty"),
    "half of a character": (ONE | {"prompt": "\ud83d"}, "'prompt' has .*half of a character"),
    "no text": (ONE | {"prompt": None}, "'prompt' must be a string, not null"),
    "no message": (ONE | {"prompt": []}, "ends with no message at all"),
    "an answer at the end": (
        ONE | {"prompt": [USER, ASSISTANT]},
        "ends with a message of the assistant, not with",
    ),
    "two questions": (ONE | {"prompt": [USER, USER]}, r"do not take turns .*\(user, user\)"),
    "a late system message": (ONE | {"prompt": [USER, SYSTEM, USER]}, "do not take turns"),
    "an unknown role": (ONE | {"prompt": [USER | {"role": "human"}]}, r"'prompt\[0\].role' is 'human': write one of system"),
    "a role of no text": (ONE | {"prompt": [USER | {"role": []}]}, r"'prompt\[0\].role' is"),
    "another key": (ONE | {"prompt": [USER | {"name": "x"}]}, r"'prompt\[0\]' must be an object with exactly"),
    "a follow-up of no text": (ONE | {"follow_ups": ["a", 1]}, r"'follow_ups\[1\]' must be a string"),
    "follow-ups of no list": (ONE | {"follow_ups": "a"}, "'follow_ups' must be a list of strings, not a string"),
    "a misspelt key": (ONE | {"followups": ["a"]}, "the key 'followups' would be a field: write 'follow_ups'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(case, read):
    value, words = WRONG[case]
    with pytest.raises(InputError, match=words):
        read(ONE | {"id": "first"}, value)


def test_the_order_of_messages():
    messages = {"s": Message("system", "x"), "u": Message("user", "x"), "a": Message("assistant", "x")}

    def order(roles: str):
        return misplaced([messages[role] for role in roles])

    assert all(order(roles) is None for roles in ("u", "su", "uau", "suauau"))
    assert all(order(roles) for roles in ("", "s", "a", "ua", "uu", "auau", "ssu", "usu", "au", "sau"))
