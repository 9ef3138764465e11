"""How are prompts of one's own read? One JSON object a line: `id`, `language`, `prompt`, perhaps `follow_ups`, and fields."""

from typing import Any, get_args

from mpo_jax.data.json_objects import Place, kind, string
from mpo_jax.data.prompts.base import Message, Prompt, Role, misplaced
from mpo_jax.data.prompts.content import Content, Found, PromptSet

_KEYS = ("id", "language", "prompt", "follow_ups")


def read(content: Content) -> Found:
    """`prompt` is the user's message, or a list of {"role", "content"} that ends with one; keys beside `_KEYS` are fields.
    Errors: a key that is missing or not of its kind; messages out of order."""
    for place, value in content.objects():
        for key in _KEYS[:3]:
            if key not in value:
                raise place.error(f"the key '{key}' is missing: a prompt needs {', '.join(_KEYS[:3])}")
        follow_ups = value.get("follow_ups", [])
        if not isinstance(follow_ups, list):
            raise place.error(f"'follow_ups' must be a list of strings, not {kind(follow_ups)}")
        language = string(value["language"], "language", place)
        if not language.strip():
            raise place.error("'language' is empty: write a code such as \"sw\"")
        yield (
            place,
            Prompt(
                id=string(value["id"], "id", place),
                language=language,
                messages=_messages(value["prompt"], place),
                follow_ups=tuple(string(text, f"follow_ups[{i}]", place) for i, text in enumerate(follow_ups)),
                fields={key: field for key, field in value.items() if key not in _KEYS},
            ),
        )


def _messages(value: Any, place: Place) -> tuple[Message, ...]:
    if not isinstance(value, list):
        return (Message("user", string(value, "prompt", place)),)
    messages = tuple(_message(one, f"prompt[{i}]", place) for i, one in enumerate(value))
    if problem := misplaced(messages):
        raise place.error(f"'prompt' cannot be answered, since {problem}")
    return messages


def _message(value: Any, key: str, place: Place) -> Message:
    if not isinstance(value, dict) or set(value) != {"role", "content"}:
        raise place.error(f"'{key}' must be an object with exactly the keys role and content")
    if value["role"] not in get_args(Role):
        raise place.error(f"'{key}.role' is {value['role']!r}: write one of {', '.join(get_args(Role))}")
    return Message(value["role"], string(value["content"], f"{key}.content", place))


SET = PromptSet(
    name="prompts of your own",
    looks="JSON objects, one a line, with id, language and prompt",
    fits=lambda content: "prompt" in content.keys and bool({"id", "language"} & content.keys),
    read=read,
)
