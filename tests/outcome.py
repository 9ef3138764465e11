"""How does a call end that is given anything at all? With a result, or with a sentence for the person who gave it."""

from collections.abc import Callable
from typing import TypeVar

from mpo_jax.errors import InputError

T = TypeVar("T")


def outcome(call: Callable[[], T]) -> T | InputError:
    """The result or the refusal, which has to be one line and to end as a sentence does. Every other exception is a bug."""
    try:
        return call()
    except InputError as refusal:
        sentence = str(refusal)
        assert len(sentence.splitlines()) == 1, f"more than a line: {sentence!r}"
        assert sentence.endswith((".", "?")), f"no full stop: {sentence!r}"
        return refusal
