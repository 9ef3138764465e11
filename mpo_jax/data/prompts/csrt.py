"""How is CSRT read? A CSV of MultiJail's requests, each rewritten as one sentence that mixes up to ten languages.

H. Yoo, Y. Yang and H. Lee, "Code-Switching Red-Teaming: LLM Evaluation for Safety and Multilingual Understanding",
arXiv:2406.15481.
"""

from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.data.prompts.content import Content, Found, PromptSet, names

MIXED = "mul"  # ISO 639-2: multiple languages


def read(content: Content) -> Found:
    """Fields: `category` (a list of names) and `en`, the request in English, which MultiJail has as a prompt."""
    for place, row in content.rows():
        fields = {"category": names(row["category"]), "en": row["en"]}
        yield place, Prompt(row["id"], MIXED, (Message("user", row["csrt"]),), fields=fields)


SET = PromptSet(
    name="CSRT",
    looks="a CSV with the columns id, category, en, csrt",
    fits=lambda content: {"id", "category", "en", "csrt"} <= {*content.columns},
    read=read,
)
