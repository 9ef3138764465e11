"""How is MultiJail read? A CSV whose rows have one unsafe request in ten languages.

Y. Deng et al., "Multilingual Jailbreak Challenges in Large Language Models", arXiv:2310.06474.
"""

from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.data.prompts.content import Content, Found, PromptSet, names

LANGUAGES = ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv")
_BESIDE = ("id", "source", "tags")


def read(content: Content) -> Found:
    """Fields: `category` (a list of names) and `source`, which says who published the English request."""
    for place, row in content.rows():
        fields = {"category": names(row["tags"]), "source": row["source"]}
        for language in LANGUAGES:
            yield place, Prompt(row["id"], language, (Message("user", row[language]),), fields=fields)


SET = PromptSet(
    name="MultiJail",
    looks=f"a CSV with the columns {', '.join((*_BESIDE, *LANGUAGES))}",
    fits=lambda content: {*_BESIDE, *LANGUAGES} <= {*content.columns},
    read=read,
)
