"""How is MGSM read? One file a language, of grade-school problems and their answers, with no header.

F. Shi et al., "Language Models are Multilingual Chain-of-Thought Reasoners", arXiv:2210.03057.
"""

import re

from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.data.prompts.content import Content, Found, PromptSet
from mpo_jax.errors import InputError

_LINE = re.compile(r"([^\t]*)\t(-?[\d.,]+)\s*")
_NAME = re.compile(r"mgsm_(\w+)\.tsv")


def read(content: Content) -> Found:
    """The id is the line's index. Fields: `answer`, the number as it is written. Errors: a file whose name does not tell its
    language; a line that is not a question, a tab and a number."""
    name = _NAME.fullmatch(content.path.name)
    if name is None:
        raise InputError(
            f"{content.path} is MGSM, which names its language in the name of the file alone: call it mgsm_LANGUAGE.tsv, such as "
            "mgsm_sw.tsv."
        )
    for i, line in enumerate(content.text.removesuffix("\n").split("\n")):
        place, parts = content.line(i + 1), _LINE.fullmatch(line)
        if parts is None:
            raise place.error("the line must be a question, a tab and a number")
        yield place, Prompt(str(i), name[1], (Message("user", parts[1]),), fields={"answer": parts[2]})


SET = PromptSet(
    name="MGSM",
    looks="lines of a question, a tab and a number, in mgsm_LANGUAGE.tsv",
    fits=lambda content: not content.is_json and _LINE.fullmatch(content.text.partition("\n")[0]) is not None,
    read=read,
)
