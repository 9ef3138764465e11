"""Which language is a text?

Asked only where a data set does not name its languages, and by the audit of data that does. The answer is py3langid's, a naive
Bayes classifier of byte n-grams whose model comes with the package; docs/data.md compares it with others. Codes are ISO 639-1,
and "und" (ISO 639-2: undetermined) where it is not sure, as of a word that several languages have.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mpo_jax.data.byte_features import Automaton

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
    data sets have them. Loading takes half a second and 170 MB."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([code for code in identifier.labels if len(code) == 2 or code == NO_LANGUAGE])
    return identifier


@functools.cache
def _automaton() -> Automaton:
    identifier = _identifier()
    following, base, emits = (
        np.asarray(table, np.int32) for table in (identifier.tk_nextmove, identifier.tk_row, identifier.tk_output)
    )
    return Automaton(following, base << 8, emits)


@functools.cache
def _weights() -> np.ndarray:
    """f32 (features, scores)."""
    return np.ascontiguousarray(_identifier().nb_ptc, np.float32)


_known: dict[str, Detection] = {}  # files repeat their dominant side, and the audit asks again what reading has asked
KNOWN = 2**15  # texts that are remembered at least, as long as no more are asked at a time
_TOGETHER = 2**20  # characters that are classified together: enough for numpy, and little memory
_LEAST = 64  # characters that a short text counts for, since it takes a row of scores too


def detect_all(texts: Iterable[str]) -> None:
    """`detect` knows the languages of these texts afterwards: together they take a fifth of the time."""
    asked = list(dict.fromkeys(texts))
    new = [text for text in asked if text not in _known]
    if len(_known) + len(new) > 2 * KNOWN:
        _known.clear()
        new = asked
    for part in _parts(new):
        _known.update(zip(part, _classified(part), strict=True))


def detect(text: str) -> Detection:
    """The language of most of a text."""
    while (found := _known.get(text)) is None:  # again where another thread has made room meanwhile
        detect_all([text])
    return found


def forget() -> None:
    """Frees the texts whose languages are known, a hundred megabytes of long ones, where nothing asks for them again."""
    _known.clear()


def _parts(texts: Iterable[str]) -> Iterator[list[str]]:
    """Those that are classified together."""
    part: list[str] = []
    held = 0
    for text in texts:
        size = max(len(text), _LEAST)
        if part and held + size > _TOGETHER:
            yield part
            part, held = [], 0
        part.append(text)
        held += size
    if part:
        yield part


def _classified(texts: Sequence[str]) -> list[Detection]:
    """As `py3langid.LanguageIdentifier.classify`, of many texts: a text's score in each language is the sum over its features of
    log(1 + count) times a weight; over the root of its bytes, the softmax of these are the probabilities."""
    identifier, weights = _identifier(), _weights()
    encoded = [identifier._encode(text) for text in texts]
    counts = _automaton().counts(encoded, len(weights))
    counts.data = np.log1p(counts.data)
    seen = np.diff(counts.indptr) > 0  # a text without features could be in any language
    scores_BL = (counts @ weights + np.asarray(identifier.nb_pc, np.float32)) * seen[:, None]
    scores_BL /= np.sqrt([[len(text) or 1] for text in encoded]).astype(np.float32)
    weights_BL = np.exp(scores_BL - scores_BL.max(axis=1, keepdims=True))
    labels = list(dict.fromkeys(identifier.nb_classes))  # a language may have several scores, one for each script
    merged_BL = np.zeros((len(texts), len(labels)), np.float32)
    for label, column in zip(identifier.nb_classes, weights_BL.T, strict=True):
        merged_BL[:, labels.index(label)] += column
    best_B = merged_BL.argmax(axis=1)
    sure_B = merged_BL.max(axis=1) / merged_BL.sum(axis=1)
    return [_answer(labels[best], float(probability)) for best, probability in zip(best_B, sure_B, strict=True)]


def _answer(language: str, probability: float) -> Detection:
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
