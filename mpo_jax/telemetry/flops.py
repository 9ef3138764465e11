"""How many model FLOPs does a batch take? Counted from shapes and lengths alone.

The compiler's own count is of no use here: it counts the body of a scan once, and a kernel as nothing.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mpo_jax.models.decoder import DecoderConfig
from mpo_jax.models.parameters import LAYERS, TOP, first_reached
from mpo_jax.types import Batch, Packed, Params, Scores


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of batches. Adds up over updates."""

    flops: float = 0.0  # model FLOPs
    tokens: int = 0  # real tokens in the packed rows of both models
    positions: int = 0  # all positions of those rows

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.tokens + other.tokens, self.positions + other.positions)


class Counts(NamedTuple):
    """What is multiplied in packed rows: positions of sequences, scored positions, and each layer's pairs of a query and a key
    that it sees."""

    positions: int
    scored: int
    pairs: tuple[int, ...]


def update_work(config: DecoderConfig, batch: Batch, trainable: Params, *, learns: bool = True) -> Work:
    """The work of one update with this host batch, its microbatch axis included; of its forward passes alone unless it `learns`.
    `trainable`: what is trained, arrays or their shapes; with adapters in it, all else is frozen.

    The convention is that of model FLOPs (Chowdhery et al., PaLM, arXiv:2204.02311, appendix B):

    * A multiply-add is 2 FLOPs. Recomputation does not count, nor does the extra work of blocks, kernels and padding.
    * These products count: every position of a sequence with the layers' matrices and adapters, every query with the keys that it
      sees (within its segment, not after it, within the layer's window), and every scored position with the unembedding.
    * The backward pass has two products for each of these, the gradients of its two factors. The gradient of a weight that is
      frozen does not count, nor does that of states that depend on nothing trained.
    * Lookups, norms, biases, rotary embedding, softmax, pooling, the loss and the optimiser do not count.
    * The policy runs forward and backward. The reference runs forward where it is live, and not at all where its scores come
      with the batch. Mismatched pairs run forward through each model that scores them.
    """
    runs = _passes(config, batch, trainable, learns)
    return Work(
        float(sum(flops(counts) for packed, passes in runs for counts in [counted(config, packed)] for flops in passes)),
        sum(int((packed.kv_segment_ST > 0).sum()) for packed, _ in runs),
        sum(packed.kv_segment_ST.size for packed, _ in runs),
    )


def attention_flops(config: DecoderConfig, batch: Batch, trainable: Params) -> float:
    """What the products of queries with keys and of their weights with values have of an update's model FLOPs."""
    runs = _passes(config, batch, trainable, learns=True)
    pairs = ((counted(config, packed)._replace(positions=0, scored=0), passes) for packed, passes in runs)
    return float(sum(flops(counts) for counts, passes in pairs for flops in passes))


def _passes(
    config: DecoderConfig, batch: Batch, trainable: Params, learns: bool
) -> list[tuple[Packed, tuple[Callable[[Counts], int], ...]]]:
    """The packed rows of an update, and the FLOPs of each pass over them."""
    policy = functools.partial(forward_flops, config, trainable=trainable)
    backward = (functools.partial(backward_flops, config, trainable=trainable),) if learns else ()
    reference = functools.partial(forward_flops, config)
    runs: list[tuple[Packed, tuple[Callable[[Counts], int], ...]]] = [(batch.policy, (policy, *backward))]
    if isinstance(batch.reference, Packed):
        runs.append((batch.reference, (reference,)))
    if batch.divergence is not None:
        runs.append((batch.divergence, (policy, *backward, reference)))
    if batch.mismatch is not None:
        stored = isinstance(batch.reference, Scores) and batch.reference.mismatch is not None
        runs.append((batch.mismatch, (policy,) if stored else (policy, reference)))
    return runs


def forward_flops(config: DecoderConfig, counts: Counts, trainable: Params | None = None) -> int:
    """The FLOPs of one forward pass, by the convention of `update_work`, with the adapters in `trainable`."""
    sizes, layers = _sizes(config), (trainable or {}).get("layers", {})
    weights = sum(n * m + _rank(_part(layers, path)) * (n + m) for path, (n, m) in sizes.items())
    attention = sum(counts.pairs) * 2 * config.heads * config.head_dim
    multiply_adds = counts.positions * config.layers * weights + attention + counts.scored * _unembedding(config)
    return 2 * multiply_adds


def backward_flops(config: DecoderConfig, counts: Counts, trainable: Params) -> int:
    """The FLOPs of the backward pass to what is trained."""
    c, at_first, first = config, "embedding" in trainable, first_reached(trainable, config.layers)
    upper = c.layers - len(jax.tree.leaves(trainable[TOP])[0]) if TOP in trainable else c.layers
    multiply_adds = 0
    for i, pairs in enumerate(counts.pairs):
        layers, reached = trainable.get(LAYERS if i < upper else TOP, {}), at_first or i > first
        of_position, of_pair = _backward_of_layer(c, layers, reached)
        multiply_adds += counts.positions * of_position + pairs * of_pair
    of_states = first < c.layers or "final_norm" in trainable
    of_weight = ("embedding" if c.tied else "unembedding") in trainable
    return 2 * (multiply_adds + counts.scored * _unembedding(c) * (of_states + of_weight))


def _backward_of_layer(config: DecoderConfig, layers: Params, reached: bool) -> tuple[int, int]:
    """Multiply-adds of one layer's backward pass: (for a position, for a pair of a query and a key). `layers`: what is trained of
    the layers. `reached`: whether the layer's input depends on what is trained."""
    sizes = _sizes(config)

    def of_product(group: str, name: str, reached: bool) -> int:
        """The gradients of a projection's input, where that is reached, and of what is trained of the projection."""
        (n, m), trained = sizes[group, name], _part(layers, (group, name))
        if r := _rank(trained):
            return reached * n * m + r * (n * (1 + reached) + 2 * m)
        return (reached + (trained is not None)) * n * m

    attention, mlp = (layers.get(group, {}).keys() for group in ("attention", "mlp"))
    at_qkv = reached or "attention_norm" in layers
    q, k, v = (at_qkv or bool(attention & {name, f"{name}_bias", f"{name}_norm"}) for name in "qkv")
    of_pair = (q + k + (q or k) + v) * config.heads * config.head_dim  # of queries, keys, probabilities, values
    before_mlp = {"attention_norm", "attention", "attention_post_norm", "mlp_norm"}
    at_mlp = at_qkv if config.norms == "parallel" else reached or bool(layers.keys() & before_mlp)
    at_down = at_mlp or bool(mlp & {"gate", "up"})
    of_position = sum(of_product("attention", name, at_qkv) for name in "qkv") + of_product("attention", "o", q or k or v)
    of_position += sum(of_product("mlp", name, at_mlp) for name in ("gate", "up")) + of_product("mlp", "down", at_down)
    return of_position, of_pair


def _sizes(config: DecoderConfig) -> dict[tuple[str, str], tuple[int, int]]:
    """(inputs, outputs) of a layer's projections."""
    width, heads, kv_heads = config.hidden_size, config.heads * config.head_dim, config.kv_heads * config.head_dim
    attention = {"q": (width, heads), "k": (width, kv_heads), "v": (width, kv_heads), "o": (heads, width)}
    mlp = {"gate": (width, config.ffn), "up": (width, config.ffn), "down": (config.ffn, width)}
    groups = {"attention": attention, "mlp": mlp}
    return {(group, name): size for group, found in groups.items() for name, size in found.items()}


def _unembedding(config: DecoderConfig) -> int:
    return config.hidden_size * config.vocab_size


def _part(layers: Params, path: tuple[str, str]) -> Any:
    """What is trained of a projection: the weight, the factors of its adapter, or None."""
    group, name = path
    return layers.get(group, {}).get(name)


def _rank(trained: Any) -> int:
    """The rank of a projection's adapter, 0 where it has none."""
    return trained["a"].shape[-1] if isinstance(trained, dict) else 0


def counted(config: DecoderConfig, packed: Packed) -> Counts:
    """Of host arrays with any leading axes."""
    pairs = {window: visible_pairs(packed, window) for window in set(config.layer_windows)}
    positions, scored = int((packed.segment_ST > 0).sum()), int((packed.answer_slot_SA >= 0).sum())
    return Counts(positions, scored, tuple(pairs[window] for window in config.layer_windows))


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
