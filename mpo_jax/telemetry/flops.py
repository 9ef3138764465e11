"""How many model FLOPs does a batch take? Counted from shapes and lengths alone.

The compiler's own count is of no use here: it counts the body of a scan once, and a kernel as nothing.
"""

import dataclasses
from typing import Any

import numpy as np

from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.types import Batch, Packed, Scores

FORWARD, FORWARD_AND_BACKWARD = 1, 3  # the backward pass has two products for each product of the forward pass


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of batches. Adds up over updates."""

    flops: float = 0.0  # model FLOPs
    tokens: int = 0  # real tokens in the packed rows of both models
    positions: int = 0  # all positions of those rows

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.tokens + other.tokens, self.positions + other.positions)


def update_work(config: DecoderConfig, batch: Batch) -> Work:
    """The work of one update with this host batch, its microbatch axis included.

    The convention is that of model FLOPs (Chowdhery et al., PaLM, arXiv:2204.02311, appendix B):

    * A multiply-add is 2 FLOPs. The backward pass is twice the forward pass. Recomputation does not count, nor does the extra
    work
      of blocks, kernels and padding.
    * These products count: every position of a sequence with the layers' matrices, every query with the keys that it sees (within
      its segment, not after it, within the layer's window), and every scored position with the unembedding.
    * Lookups, norms, biases, rotary embedding, softmax, pooling, the loss and the optimiser do not count.
    * The policy runs forward and backward. The reference runs forward where it is live, and not at all where its scores come
      with the batch. Mismatched pairs run forward through each model that scores them.
    """
    runs = [(batch.policy, FORWARD_AND_BACKWARD)]
    if isinstance(batch.reference, Packed):
        runs.append((batch.reference, FORWARD))
    if batch.divergence is not None:
        runs.append((batch.divergence, FORWARD_AND_BACKWARD + FORWARD))
    if batch.mismatch is not None:
        stored = isinstance(batch.reference, Scores) and batch.reference.mismatch is not None
        runs.append((batch.mismatch, FORWARD if stored else 2 * FORWARD))
    packs = [packed for packed, _ in runs]
    return Work(
        float(sum(passes * forward_flops(config, packed) for packed, passes in runs)),
        sum(int((packed.kv_segment_ST > 0).sum()) for packed in packs),
        sum(packed.kv_segment_ST.size for packed in packs),
    )


def forward_flops(config: DecoderConfig, packed: Packed) -> int:
    """The FLOPs of one forward pass over host arrays with any leading axes, by the convention of `update_work`."""
    c = config
    projections = c.hidden_size * c.head_dim * (2 * c.heads + 2 * c.kv_heads)  # q and o, k and v
    weights = c.layers * (projections + 3 * c.hidden_size * c.ffn)  # gate, up, down
    pairs = sum(visible_pairs(packed, window) * c.layer_windows.count(window) for window in set(c.layer_windows))
    positions = int((packed.segment_ST > 0).sum())
    scored = int((packed.answer_slot_SA >= 0).sum())
    multiply_adds = positions * weights + pairs * 2 * c.heads * c.head_dim + scored * c.hidden_size * c.vocab_size
    return 2 * multiply_adds


def visible_pairs(packed: Packed, window: int | None) -> int:
    """The number of pairs of a query and a key that it sees (see `models.attention.api`), over all rows."""
    T = packed.segment_ST.shape[-1]
    segment_RT, position_RT = (np.asarray(x).reshape(-1, T) for x in (packed.segment_ST, packed.position_ST))
    rows, most = segment_RT.shape[0], int(segment_RT.max(initial=0)) + 1
    of_row_RT = np.arange(rows)[:, None] * most

    def named(segment: Any) -> np.ndarray:
        """A number for every segment of every row; segment 0 of a row is no sequence."""
        return (np.asarray(segment).reshape(-1, T) + of_row_RT).reshape(-1)

    # A sequence's keys come first in its segment, its own padding after them.
    keys = np.bincount(named(packed.kv_segment_ST), minlength=rows * most)[named(packed.segment_ST)]
    index = position_RT.reshape(-1).astype(np.int64)
    end = np.minimum(index + 1, keys)
    begin = np.maximum(index + 1 - window, 0) if window is not None else np.zeros_like(index)
    return int(np.maximum(end - begin, 0)[segment_RT.reshape(-1) > 0].sum())
