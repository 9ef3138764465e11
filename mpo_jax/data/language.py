"""Which language is a text?

Asked only where a data set does not name its languages, and by the audit of data that does. The answer is py3langid's, a naive
Bayes classifier of byte n-grams whose model comes with the package; docs/data.md compares it with others. Codes are ISO 639-1,
and "und" (ISO 639-2: undetermined) where it is not sure, as of a word that several languages have.
"""

import functools
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

UNKNOWN = "und"
SURE = 0.3  # a guess is an answer from this probability on: on short sentences fewer than 2 % of such answers are wrong
NO_LANGUAGE = "zxx"  # the classifier's class of numbers, code and markup


class Detection(NamedTuple):
    """A language and its probability."""

    language: str
    probability: float


@functools.cache
def _identifier() -> "LanguageIdentifier":
    """Of the languages with a code of two letters: of the dialects beside them the classifier makes mistakes more often than
    data sets have them. Loading takes half a second and 120 MB."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([code for code in identifier.labels if len(code) == 2 or code == NO_LANGUAGE])
    return identifier


@functools.lru_cache(maxsize=8192)  # files repeat their dominant side, and the audit asks again what reading has asked
def detect(text: str) -> Detection:
    """The language of most of a text."""
    language, probability = _identifier().classify(text)
    known = probability >= SURE and language != NO_LANGUAGE
    return Detection(language if known else UNKNOWN, probability)


def vote(texts: Iterable[str], unlike: str = UNKNOWN) -> str:
    """The language of several texts of one side of a row, each with one vote, so that one untranslated text decides nothing; the
    surest text decides between equal votes.

    `unlike` is the language of the other side: it is the answer only where no text speaks for another one, since models that
    were to answer in the target language often drift into the dominant one.
    """
    votes = [found for text in texts if (found := detect(text)).language != UNKNOWN]
    votes = [found for found in votes if found.language != unlike] or votes
    count = Counter(found.language for found in votes)
    return max(votes, key=lambda found: (count[found.language], found.probability), default=Detection(UNKNOWN, 0.0)).language
