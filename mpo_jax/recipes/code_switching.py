"""Which words of a text does another language lend? Those of a bilingual lexicon, with a probability.

The lexicon is a folder with files like en-sw.txt: a word and its translation a line, as MUSE has them
(facebookresearch/MUSE). The first translation of a word counts.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mpo_jax.data.json_objects import read_text
from mpo_jax.errors import InputError


def read_lexicon(folder: Path, source: str, target: str) -> dict[str, str]:
    """Word in lower case -> its translation. Errors: no such file; a line that is no pair of words."""
    path = folder / f"{source}-{target}.txt"
    if not path.is_file():
        raise InputError(f"{path} does not exist: give --lexicon, a folder with {path.name}, a word and its translation a line.")
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        if len(pair := line.split()) != 2:
            raise InputError(f"{path}, line {number}: there must be a word and its translation, with a space between them.")
        found.setdefault(pair[0].lower(), pair[1])
    return found


def switched(text: str, lexicon: Mapping[str, str], probability: float, seed: str) -> str:
    """The text with each word that the lexicon has replaced with this probability. `seed` decides which."""
    digest = hashlib.blake2b(f"{seed}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    random = np.random.default_rng(int.from_bytes(digest))

    def other(word: re.Match[str]) -> str:
        known = lexicon.get(word[0].lower())
        return known if known is not None and random.random() < probability else word[0]

    return re.sub(r"\w+", other, text)
