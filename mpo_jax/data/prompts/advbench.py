"""How is AdvBench read? A CSV of English instructions, each with the beginning of an answer that complies.

A. Zou et al., "Universal and Transferable Adversarial Attacks on Aligned Language Models", arXiv:2307.15043.
"""

from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.data.prompts.content import Content, Found, PromptSet


def read(content: Content) -> Found:
    """The id is the row's index. Fields: `target`, the beginning of a compliant answer."""
    for i, (place, row) in enumerate(content.rows()):
        yield place, Prompt(str(i), "en", (Message("user", row["goal"]),), fields={"target": row["target"]})


SET = PromptSet(
    name="AdvBench",
    looks="a CSV with the columns goal, target",
    fits=lambda content: {"goal", "target"} <= {*content.columns},
    read=read,
)
