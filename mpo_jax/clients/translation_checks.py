"""What may be wrong with a translation? Five signs of it, which a good translation may show too: they are counted, not acted on.

The one exception is an empty translation, which nobody can judge (see `translators.base`).
"""

from collections.abc import Mapping

from mpo_jax.clients.translators.base import Text, Translation
from mpo_jax.data.language import UNKNOWN, detect
from mpo_jax.data.refusals import opens_with_refusal

FINDINGS = ("language", "length", "copied", "refused", "emptied")
# Characters of a translation for each of its text: a Chinese text doubles to quadruples in English. Wide, since short texts vary.
RATIO = (0.2, 8.0)
SHORT = 20  # characters, under which neither a language nor a ratio says anything


def findings(text: Text, translation: Translation, target: str) -> tuple[str, ...]:
    """Which of `FINDINGS` a translation shows; none where no translator was asked or there is no answer.

    language: it is in another language than `target`. length: it is much shorter or longer than the text. copied: it is the text.
    refused: it opens like a refusal, and the text does not. emptied: nothing is left of the text.
    """
    if not translation.translated:
        return ()
    if translation.error is not None:
        return ("emptied",) if translation.error == "an empty translation" else ()
    said, given = translation.text.strip(), text.text.strip()
    found = []
    if len(said) >= SHORT and detect(said).language not in (UNKNOWN, target):
        found.append("language")
    if max(len(said), len(given)) >= SHORT and not RATIO[0] <= len(said) / len(given) <= RATIO[1]:
        found.append("length")
    if said == given:
        found.append("copied")
    if opens_with_refusal(said, target) and not opens_with_refusal(given, text.language):
        found.append("refused")
    return tuple(found)


def checked(known: Mapping[Text, Translation], target: str) -> dict[Text, tuple[str, ...]]:
    """The texts whose translations show something."""
    every = {text: findings(text, translation, target) for text, translation in known.items()}
    return {text: found for text, found in every.items() if found}
