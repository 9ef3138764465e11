"""What does scoring need from a model?"""

from collections.abc import Callable, Mapping
from typing import Protocol

from mpo_jax.types import Array, Packed, Params


class LanguageModel(Protocol):
    """Pure functions of a tree of parameters, whose dtype is the compute dtype."""

    @property
    def final_softcap(self) -> float | None:
        """Logits are capped to softcap * tanh(logit / softcap); None = as they are."""
        ...

    @property
    def keeps_logits(self) -> bool:
        """Whether the logits of scored tokens are kept for the backward pass, or computed a second time."""
        ...

    def hidden(self, params: Params, packed: Packed) -> Array:
        """States after the final norm, [S, T, D]."""
        ...

    def tapped(
        self, params: Params, packed: Packed, readers: Mapping[str, Callable[[Array], Array]]
    ) -> tuple[Array, dict[str, Array]]:
        """(`hidden`, site -> what its reader keeps of each layer, [L, ...]), as `models.decoder.Model` does it."""
        ...

    def readout(self, hidden: Array) -> Array:
        """Hidden states as the unembedding reads them, [..., D]: scaled in families that scale their logits."""
        ...

    def unembedding(self, params: Params) -> Array:
        """The matrix [V, D] whose product with the readout of a hidden state gives the logits, before the soft-cap."""
        ...
