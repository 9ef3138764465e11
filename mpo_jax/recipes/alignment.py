"""How probable is a text as the translation of another? Whoever can say so tells the tokens' log-probabilities."""

from collections.abc import Sequence
from typing import Any, Protocol


class Aligner(Protocol):
    """A translation model that scores."""

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that determines a score, as JSON."""
        ...

    def logps(self, pairs: Sequence[tuple[str, str]], language: str, into: str) -> list[list[float]]:
        """Of each (text, its meaning): log p(token | the tokens before it, the text) of the meaning's tokens, end token included,
        in nats. `language` is that of the texts, `into` that of the meanings."""
        ...
