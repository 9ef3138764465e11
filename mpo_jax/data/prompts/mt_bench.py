"""How is MT-Bench read? FastChat's question.jsonl: English questions of two turns.

L. Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv:2306.05685.
"""

from mpo_jax.data.json_objects import string
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.data.prompts.content import Content, Found, PromptSet


def read(content: Content) -> Found:
    """The first turn is the message, those after it are the follow-ups. Fields: `category`, and `reference` where there is one.
    Errors: a question without an id or turns."""
    for place, value in content.objects():
        number, turns = value.get("question_id"), value.get("turns")
        if not isinstance(number, int | str) or not isinstance(turns, list) or not turns:
            raise place.error("a question must have question_id, a number or a string, and turns, a list of one string or more")
        texts = tuple(string(turn, f"turns[{i}]", place) for i, turn in enumerate(turns))
        fields = {key: field for key, field in value.items() if key not in ("question_id", "turns")}
        yield place, Prompt(str(number), "en", (Message("user", texts[0]),), texts[1:], fields)


SET = PromptSet(
    name="MT-Bench",
    looks="JSON objects, one a line, with question_id, category and turns",
    fits=lambda content: {"question_id", "turns"} <= content.keys,
    read=read,
)
