"""How does a recipe that ranks samples draw them? Its fields say how many, and by which distribution."""

from mpo_jax.errors import InputError
from mpo_jax.generation.base import Decoding


class Ranked:
    """What recipes that choose among several samples of a prompt have in common; each has these fields."""

    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise InputError(f"samples={self.samples} must be at least 2: the best of them is chosen, and the worst rejected.")
        self.decoding()

    def decoding(self) -> Decoding:
        """Errors: those of `Decoding`."""
        return Decoding(self.samples, self.temperature, self.top_p, 0, self.max_new_tokens, self.seed)
