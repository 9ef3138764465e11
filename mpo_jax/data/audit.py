"""What is noisy in the data? Counts per target language; nothing is left out or repaired because of them.

All are approximate where they judge language or meaning: a language by a classifier (`data.language`), a refusal by the phrases
below in an answer's first sentence.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from mpo_jax.data.chat import Example
from mpo_jax.data.language import UNKNOWN, detect
from mpo_jax.data.rows import Row


@dataclasses.dataclass(frozen=True)
class Audit:
    """Counts of rows of one target language. Where nothing is said of the side, it is the target's text that is counted."""

    rows: int
    prompt_in_another_language: int  # judged by `detect`; a text it cannot judge is not counted
    chosen_in_another_language: int
    rejected_in_another_language: int
    chosen_opens_with_refusal: int
    rejected_opens_with_refusal: int
    html_entities: int  # such as &#39; in any of the three texts
    replacement_characters: int  # U+FFFD in any of them
    duplicates: int  # rows whose three texts together occurred in an earlier row
    identical_to_source: int  # chosen or rejected is the source's, word for word
    empty_prompts: int
    one_word_rejected: int
    truncated_source: int  # any of the side's three sequences lost tokens
    truncated_target: int


_HTML_ENTITY = re.compile(r"&(?:#\d{1,6}|#x[0-9a-fA-F]{1,5}|amp|lt|gt|quot|apos|nbsp);")

# What a refusal says in its first sentence. Verb-final languages say it last, so the whole sentence is looked through.
REFUSALS = {
    "en": "i can't|i cannot|i can not|i can’t|sorry|i won't|i will not|not able to|unable to|unfortunately|as an ai",
    "ar": "لا أستطيع|لا يمكنني|لا استطيع|آسف|عذرا|أعتذر|للأسف|غير قادر",
    "bn": "দুঃখিত|পারি না|পারব না|পারছি না|সম্ভব নয়|ক্ষমা|অক্ষম",
    "de": "ich kann nicht|ich kann dir|ich kann ihnen|tut mir leid|entschuldigung|leider|ich werde nicht",
    "es": "no puedo|lo siento|lamento|disculpa|lamentablemente|no voy a",
    "fr": "je ne peux pas|désolé|pas en mesure|malheureusement|je regrette",
    "it": "non posso|mi dispiace|spiacente|purtroppo|non sono in grado",
    "ja": "申し訳|すみません|ごめんなさい|できません|出来ません|できない|残念ながら",
    "jv": "ora bisa|mboten saged|pangapunten|ngapunten|sepurane|maaf",
    "ko": "죄송|미안|수 없습니다|수 없어요|수 없다|안타깝|유감",
    "pt": "não posso|desculpe|sinto muito|lamento|infelizmente",
    "sw": "samahani|siwezi|naomba radhi|sina uwezo|kwa bahati mbaya|hatuwezi",
    "th": "ขอโทษ|ขออภัย|ไม่สามารถ|เสียใจ",
    "vi": "tôi không thể|xin lỗi|rất tiếc",
    "zh": "我不能|我无法|我無法|我不会|抱歉|对不起|對不起|不好意思|无法提供|不能提供",
}
_SENTENCE_END = re.compile(r"[.!?\n。！？।؟]")
_OPENING = 80  # characters: a first sentence longer than this is cut


def opens_with_refusal(text: str, language: str) -> bool:
    """Whether the first sentence of a text refuses, in its language or in English. Source: our own short lists of phrases, so
    approximate; in languages that are not in them only an English refusal is seen."""
    opening = _SENTENCE_END.split(text.strip().lower(), maxsplit=1)[0][:_OPENING]
    phrases = f"{REFUSALS['en']}|{REFUSALS.get(language, REFUSALS['en'])}".split("|")
    return any(phrase in opening for phrase in phrases)


# There a word is counted by its characters.
_WITHOUT_SPACES = {"ja", "km", "lo", "my", "th", "zh"}


def audit(rows: Sequence[Row], examples: Sequence[Example]) -> dict[str, Audit]:
    """Per target language, alphabetically. `examples` are the same rows, tokenised."""
    findings: dict[str, Counter[str]] = {}
    seen: set[tuple[str, str, str]] = set()
    for row, example in zip(rows, examples, strict=True):
        texts = (row.target.prompt, row.target.chosen, row.target.rejected)
        found = [*_findings(row, example), *(["duplicates"] if texts in seen else [])]
        seen.add(texts)
        findings.setdefault(row.target.language, Counter()).update(found)
    names = [field.name for field in dataclasses.fields(Audit)]
    return {language: Audit(**{name: findings[language][name] for name in names}) for language in sorted(findings)}


def _findings(row: Row, example: Example) -> Iterable[str]:
    """The names of the counts that a row by itself adds to."""
    target, source = row.target, row.source
    texts = {"prompt": target.prompt, "chosen": target.chosen, "rejected": target.rejected}
    yield "rows"
    for key, text in texts.items():
        if detect(text).language not in (UNKNOWN, target.language):
            yield f"{key}_in_another_language"
    for key in ("chosen", "rejected"):
        if opens_with_refusal(texts[key], target.language):
            yield f"{key}_opens_with_refusal"
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
    for name, side in (("source", example.source), ("target", example.target)):
        if side is not None and side.truncated_prompt + side.truncated_chosen + side.truncated_rejected > 0:
            yield f"truncated_{name}"
