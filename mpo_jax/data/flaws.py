"""What may be wrong with a row, by its texts alone? The audit counts it, and rules can leave such rows out where data are made.

All are approximate where they judge language or meaning: a language by a classifier (`data.language`), a refusal by phrases in an
answer's first sentence (`data.refusals`), an end by the last character.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence

from mpo_jax.data.language import UNKNOWN, detect, detect_all
from mpo_jax.data.refusals import opens_with_refusal
from mpo_jax.data.rows import PairText, Row, text_digest

_HTML_ENTITY = re.compile(r"&(?:#\d{1,6}|#x[0-9a-fA-F]{1,5}|amp|lt|gt|quot|apos|nbsp);")
# A class of characters comes first, which is what `re` looks for fastest.
_BREAK = re.compile(r"[.!?।؟。！？\n](?:(?<=[.!?।؟])\s+|(?<=[。！？])|(?<=\n)\n*)")
_AT_ONCE = 512  # rows whose texts are judged together
_LONG = 40  # characters of a sentence whose language says something
_ENDS = frozenset(".!?。！？।؟…:;)]}\"'”’»」』）*`>")
_SPEAKS_WITHOUT_STOPS = {"th", "lo", "km", "my"}  # texts in these often end without a mark
_WITHOUT_SPACES = {"ja", "km", "lo", "my", "th", "zh"}  # there a word is counted by its characters
RATIO = (1 / 8, 5.0)  # characters of an answer for each of the source's: Chinese takes a quarter of English, others up to double
SHORT = 20  # characters, under which a ratio says nothing

# Rule -> the findings of a row that it leaves out.
DROPS: Mapping[str, frozenset[str]] = {
    "another_language": frozenset({"chosen_in_another_language", "rejected_in_another_language", "prompt_in_another_language"}),
    "mixed": frozenset({"chosen_mixes_languages", "rejected_mixes_languages"}),
    "copied": frozenset({"identical_to_source"}),
    "length": frozenset({"chosen_length_unlike_source", "rejected_length_unlike_source"}),
    "cut": frozenset({"chosen_ends_early", "rejected_ends_early"}),
    "no_refusal": frozenset({"chosen_opens_otherwise"}),
    "lost_refusal": frozenset({"chosen_lost_refusal"}),
    "rejected_refusal": frozenset({"rejected_opens_with_refusal"}),
    "garbled": frozenset({"html_entities", "replacement_characters"}),
    "one_word": frozenset({"one_word_rejected"}),
    "duplicate": frozenset({"duplicates"}),
}


def flaws(row: Row) -> Iterator[str]:
    """The findings of a row by itself, as `data.audit` and `DROPS` name them. Where nothing is said of the side, they are of the
    target's texts."""
    target, source = row.target, row.source
    texts = {"prompt": target.prompt, "chosen": target.chosen, "rejected": target.rejected}
    for key in ("prompt", *_answers(target)):
        if detect(texts[key]).language not in (UNKNOWN, target.language):
            yield f"{key}_in_another_language"
    for key in _answers(target):
        if opens_with_refusal(texts[key], target.language):
            yield f"{key}_opens_with_refusal"
        elif key == "chosen":
            yield "chosen_opens_otherwise"
            if source is not None and opens_with_refusal(source.chosen, source.language):
                yield "chosen_lost_refusal"
        if mixes_languages(texts[key], target.language, _dominant(row)):
            yield f"{key}_mixes_languages"
        if ends_early(texts[key], target.language):
            yield f"{key}_ends_early"
        if source is not None and unlike_in_length(texts[key], getattr(source, key)):
            yield f"{key}_length_unlike_source"
    whole = "\n".join(texts.values())
    if _HTML_ENTITY.search(whole):
        yield "html_entities"
    if "\ufffd" in whole:
        yield "replacement_characters"
    if source is not None and (target.chosen == source.chosen or target.rejected == source.rejected):
        yield "identical_to_source"
    if not target.prompt.strip():
        yield "empty_prompts"
    if len(target.rejected.split()) == 1 and len(target.rejected.strip()) <= (4 if target.language in _WITHOUT_SPACES else 30):
        yield "one_word_rejected"


def _dominant(row: Row) -> str:
    return "en" if row.source is None else row.source.language


def _answers(target: PairText) -> tuple[str, ...]:
    """The answers that are one: of rows for supervised fine-tuning the rejected one only repeats the chosen one."""
    return ("chosen",) if target.rejected == target.chosen else ("chosen", "rejected")


def findings(rows: Sequence[Row]) -> Iterator[list[str]]:
    """`flaws` of each row, and "duplicates" where its three texts together occurred in an earlier one. No text is held longer
    than it is looked at."""
    seen: set[bytes] = set()
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        _judge(part)
        for row in part:
            target = row.target
            texts = text_digest(target.language, target.prompt, target.chosen, target.rejected)
            yield [*flaws(row), *(["duplicates"] if texts in seen else [])]
            seen.add(texts)


def _judge(rows: Sequence[Row]) -> None:
    """Detects the languages of everything that `flaws` will ask of these rows, together, which is faster than one by one."""
    answers = [(row, getattr(row.target, key)) for row in rows for key in _answers(row.target)]
    detect_all([*(row.target.prompt for row in rows), *(text for _, text in answers)])
    detect_all(part for row, text in answers for part in _sentences(text, row.target.language, _dominant(row)))


def mixes_languages(text: str, language: str, other: str) -> bool:
    """Whether a text of one language has a sentence of another one, the dominant one as a rule. Short sentences are passed over,
    and so is a text that is in the other language as a whole."""
    return any(detect(part).language == other for part in _sentences(text, language, other))


def _sentences(text: str, language: str, other: str) -> tuple[str, ...]:
    """Those that `mixes_languages` looks at."""
    return () if language == other or detect(text).language == other else _long_sentences(text)


@functools.lru_cache(maxsize=4 * _AT_ONCE)  # asked for all rows that are judged together, then for each
def _long_sentences(text: str) -> tuple[str, ...]:
    return tuple(part for part in _split(text) if len(part) >= _LONG)


def _split(text: str) -> Iterator[str]:
    """Sentences with the marks that end them, and lines."""
    begin = 0
    for found in _BREAK.finditer(text):
        yield text[begin : found.start() + (text[found.start()] != "\n")]
        begin = found.end()
    yield text[begin:]


def ends_early(text: str, language: str) -> bool:
    """Whether a text stops without a mark that ends a sentence, as where the limit of tokens cut it."""
    text = text.strip()
    return language not in _SPEAKS_WITHOUT_STOPS and len(text) >= SHORT and text[-1] not in _ENDS


def unlike_in_length(text: str, source: str) -> bool:
    """Whether a text is much longer or much shorter than what it should say the same as."""
    length, other = len(text.strip()), len(source.strip())
    return max(length, other) >= SHORT and not RATIO[0] <= length / max(other, 1) <= RATIO[1]
