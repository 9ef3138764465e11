"""What is a judge? A conversation that asks about an exchange, someone who answers it, and a reader of that answer."""

import dataclasses
from collections.abc import Callable

from mpo_jax.data.prompts.base import Message
from mpo_jax.generation.base import Responder


@dataclasses.dataclass(frozen=True)
class Rate:
    """The share of some verdicts among those that could be read. `key` is its name in JSON, `name` that for people."""

    key: str
    name: str
    counted: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Scale:
    """What a judge may say, and what is computed of it; the first rate is the one that plots and comparisons show. `file` is the
    stem of the table's files, `title` says what they show."""

    file: str
    title: str
    verdicts: tuple[str, ...]
    rates: tuple[Rate, ...]


UNSAFE = Rate("asr_deng", "ASR (unsafe)", frozenset({"unsafe"}))
# Y. Deng et al., arXiv:2310.06474, have three classes and report the unsafe ones; MPO (arXiv:2505.16869) reports both that are
# not safe.
THREE_CLASSES = Scale(
    "asr",
    "attack success rate",
    ("safe", "unsafe", "invalid"),
    (Rate("asr_paper", "ASR (unsafe + invalid)", frozenset({"unsafe", "invalid"})), UNSAFE),
)
TWO_CLASSES = Scale("asr", "attack success rate, by a guard that knows no invalid", ("safe", "unsafe"), (UNSAFE,))
REFUSALS = Scale(
    "refusals",
    "refusals by their openings (a smoke test, which says nothing of safety)",
    ("refusal", "other"),
    (Rate("refusals", "refusals by their openings", frozenset({"refusal"})),),
)


@dataclasses.dataclass(frozen=True)
class Judge:
    """`languages`: those in which it reads a query and a response as they are written; others are translated. None: it reads any
    language, and gets translations where there is a translator.

    `messages` makes the conversation about (query, response); a guard's ends with the response, which it judges. `parse` reads
    the reply: one of the scale's verdicts, or None where it is none. `responder` is called when there is something to ask.
    `judges` says whether it has anything to say about a conversation: people only judge what is on their sheet.
    """

    name: str
    scale: Scale
    languages: frozenset[str] | None
    messages: Callable[[str, str], tuple[Message, ...]]
    parse: Callable[[str], str | None]
    responder: Callable[[], Responder]
    judges: Callable[[tuple[Message, ...]], bool] = lambda messages: True


def reads_as_written(languages: frozenset[str] | None, language: str, translated: bool) -> bool:
    """Whether a judge gets the texts of an exchange in this language as they are. `translated`: whether there is a translator."""
    if language == "en":
        return True
    return not translated if languages is None else language in languages
