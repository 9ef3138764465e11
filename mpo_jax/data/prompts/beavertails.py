"""How is BeaverTails-Evaluation read? A JSON array of English questions in 14 categories of harm.

J. Ji et al., "BeaverTails: Towards Improved Safety Alignment of LLM via a Human-Preference Dataset", arXiv:2307.04657.
"""

from mpo_jax.data.json_objects import string
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.data.prompts.content import Content, Found, PromptSet


def read(content: Content) -> Found:
    """The id is the object's index. Fields: all keys beside the prompt."""
    for i, (place, value) in enumerate(content.objects()):
        fields = {key: field for key, field in value.items() if key != "prompt"}
        yield place, Prompt(str(i), "en", (Message("user", string(value.get("prompt"), "prompt", place)),), fields=fields)


SET = PromptSet(
    name="BeaverTails-Evaluation",
    looks="a JSON array of objects with prompt, category and category_id",
    fits=lambda content: {"prompt", "category", "category_id"} <= content.keys and not {"id", "language"} & content.keys,
    read=read,
)
