"""What is the log-probability of each scored token? The fused unembedding: hidden states in, log-probabilities out.

The forward pass keeps a running maximum and sum per token (the online log-sum-exp). Either it saves nothing else, and neither
pass holds more than one block of logits, [tokens, a slice of the vocabulary], which the backward pass recomputes; or the blocks
are kept for the backward pass, and there are three products instead of four. The vocabulary may be split over `tensor`, the
tokens over the batch axes, and the unembedding's width over `fsdp`: each block of it is gathered when it is needed, and its
gradient scattered, so that no device ever holds the whole matrix.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mpo_jax.devices.sharding import mesh_axes, spec
from mpo_jax.types import Array

BLOCK = 2**22  # logits of one block on one device: 16 MB in f32
SMALLEST_BLOCK = 512  # entries of the vocabulary: below that the products are too thin

HIDDEN, UNEMBED, SCORED = ("batch", None, None), ("vocab", "embed"), ("batch", None)
BLOCKS = ("vocab", None, "batch")  # of logits: [number of the block, its entries, tokens]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def token_logps(h_SAD: Array, unembed_VD: Array, label_SA: Array, softcap: float | None, keep: bool = False) -> Array:
    """log p(label | h), nats, f32 (S, A). The states and the unembedding have the same dtype; products accumulate in float32.

    With `keep` a differentiated call keeps all logits in float32 until its backward pass (`kept_logits` says how many bytes); the
    arithmetic is the same."""
    return on_mesh(_forward, (HIDDEN, UNEMBED, SCORED), (SCORED, SCORED), softcap)(h_SAD, unembed_VD, label_SA)[0]


def _token_logps_fwd(h_SAD: Array, unembed_VD: Array, label_SA: Array, softcap: float | None, keep: bool) -> tuple[Array, Any]:
    out = (SCORED, SCORED, BLOCKS) if keep else (SCORED, SCORED)
    run = on_mesh(functools.partial(_forward, keep=keep), (HIDDEN, UNEMBED, SCORED), out, softcap)
    logp_SA, *kept = run(h_SAD, unembed_VD, label_SA)
    return logp_SA, (h_SAD, unembed_VD, label_SA, *kept)


def _token_logps_bwd(softcap: float | None, keep: bool, saved: Any, grad_SA: Array) -> tuple[Array, Array, None]:
    kept = (BLOCKS,) if keep else ()
    run = on_mesh(_backward, (SCORED, HIDDEN, UNEMBED, SCORED, SCORED, *kept), (HIDDEN, UNEMBED), softcap)
    return *run(grad_SA, *saved), None


token_logps.defvjp(_token_logps_fwd, _token_logps_bwd)


def on_mesh(f: Any, in_axes: tuple[Any, ...], out_axes: tuple[Any, ...], softcap: float | None) -> Any:
    """`f` on each device's own part of the arrays; without a mesh, on the whole arrays."""
    mesh = jax.sharding.get_abstract_mesh()
    f = functools.partial(f, softcap=softcap, across=Collectives(mesh))
    if mesh.empty:
        return f
    # The reductions are written out below and nothing is differentiated through this map, so there is nothing to check.
    return jax.shard_map(f, in_specs=tuple(map(spec, in_axes)), out_specs=tuple(map(spec, out_axes)), check_vma=False)


class Collectives:
    """The collectives over the mesh axes of our logical axes. There is none over an axis of size 1: XLA would keep it, and
    convert its operand (and with it, before the loop over blocks, the whole unembedding) to the layout that it prefers."""

    def __init__(self, mesh: Any):
        def cut(axis: str) -> tuple[str, ...]:
            return tuple(name for name in mesh_axes(mesh, axis) if mesh.shape[name] > 1)

        self.vocab, self.embed, self.batch = cut("vocab"), cut("embed"), cut("batch")
        # A CPU multiplies bfloat16 many times slower than float32, and the product of two bfloat16 is exact in float32.
        platform = mesh.abstract_device.platform if not mesh.empty and mesh.abstract_device else jax.default_backend()
        self.widen = platform == "cpu"

    def vocab_start(self, size: int) -> Any:
        return jax.lax.axis_index(self.vocab) * size if self.vocab else 0

    def sum_vocab(self, x: Array) -> Array:
        return jax.lax.psum(x, self.vocab) if self.vocab else x

    def max_vocab(self, x: Array) -> Array:
        return jax.lax.pmax(x, self.vocab) if self.vocab else x

    def gather_embed(self, block_bD: Array) -> Array:
        return jax.lax.all_gather(block_bD, self.embed, axis=1, tiled=True) if self.embed else block_bD

    def scatter_embed(self, grad_bD: Array) -> Array:
        """The sum over the batch axes of a block's gradient, of which each device keeps its part of the width."""
        if others := tuple(name for name in self.batch if name not in self.embed):
            grad_bD = jax.lax.psum(grad_bD, others)
        return jax.lax.psum_scatter(grad_bD, self.embed, scatter_dimension=1, tiled=True) if self.embed else grad_bD


def operand(x: Array, across: Collectives) -> Array:
    return x.astype(jnp.float32) if across.widen else x


def blocks_of(tokens: int, vocab: int) -> tuple[int, int]:
    """(entries of the vocabulary in a block, number of blocks)."""
    size = min(vocab, max(SMALLEST_BLOCK, BLOCK // tokens // SMALLEST_BLOCK * SMALLEST_BLOCK))
    return size, -(-vocab // size)


def kept_logits(tokens: int, vocab: int) -> int:
    """The bytes of the logits that one device keeps, which has this many scored tokens and entries of the vocabulary."""
    size, blocks = blocks_of(tokens, vocab)
    return 4 * blocks * size * tokens


def block_of(
    i: Array,
    size: int,
    unembed_VD: Array,
    h_PD: Array,
    softcap: float | None,
    across: Collectives,
    kept_bP: Array | None = None,
) -> Any:
    """(start, unembedding of block i, its logits, the soft-cap's tanh, which of its entries are its own). `kept_bP`: the logits,
    where they are there already.

    Logits have the vocabulary first: each product then uses its operands in their layout, or transposes the narrower one.

    The last block starts early enough to be full, and leaves out the entries that it shares with the block before.
    """
    start = jnp.minimum(i * size, unembed_VD.shape[0] - size)
    w_bD = operand(across.gather_embed(jax.lax.dynamic_slice_in_dim(unembed_VD, start, size)), across)
    logits_bP, tanh_bP = kept_bP, None
    if logits_bP is None:
        logits_bP = jnp.einsum("bd,pd->bp", w_bD, h_PD, preferred_element_type=jnp.float32)
        if softcap is not None:
            tanh_bP = jnp.tanh(logits_bP / softcap)
            logits_bP = softcap * tanh_bP
    elif softcap is not None:
        tanh_bP = logits_bP / softcap
    entry_b = start + jnp.arange(size)
    return start, w_bD, logits_bP, tanh_bP, entry_b, entry_b >= i * size


def _forward(
    h_SAD: Array, unembed_VD: Array, label_SA: Array, *, softcap: float | None, across: Collectives, keep: bool = False
) -> tuple[Any, ...]:
    """Log-probabilities and log-sum-exps, (S, A) each; with `keep` the logits of all blocks too, (blocks, b, P)."""
    S, A, D = h_SAD.shape
    h_PD, V = operand(h_SAD, across).reshape(S * A, D), unembed_VD.shape[0]
    label_P = label_SA.reshape(S * A) - across.vocab_start(V)
    size, blocks = blocks_of(S * A, V)

    def body(carry: Any, i: Array) -> tuple[Any, Array | None]:
        top_P, sum_P, label_logit_P = carry
        _, _, whole_bP, _, entry_b, own_b = block_of(i, size, unembed_VD, h_PD, softcap, across)
        logits_bP = jnp.where(own_b[:, None], whole_bP, -jnp.inf)
        new_top_P = jnp.maximum(top_P, logits_bP.max(axis=0))
        sum_P = sum_P * jnp.exp(top_P - new_top_P) + jnp.exp(logits_bP - new_top_P[None]).sum(axis=0)
        is_label_bP = own_b[:, None] & (entry_b[:, None] == label_P[None])
        label_logit_P += jnp.where(is_label_bP, logits_bP, 0.0).sum(axis=0)
        return (new_top_P, sum_P, label_logit_P), whole_bP if keep else None

    zeros = jnp.zeros(S * A, jnp.float32)
    (top_P, sum_P, label_logit_P), kept = jax.lax.scan(body, (zeros - jnp.inf, zeros, zeros), jnp.arange(blocks))
    highest_P = across.max_vocab(top_P)
    lse_P = highest_P + jnp.log(across.sum_vocab(sum_P * jnp.exp(top_P - highest_P)))
    scores = (across.sum_vocab(label_logit_P) - lse_P).reshape(S, A), lse_P.reshape(S, A)
    return scores if kept is None else (*scores, kept)


def _backward(
    grad_SA: Array,
    h_SAD: Array,
    unembed_VD: Array,
    label_SA: Array,
    lse_SA: Array,
    kept: Array | None = None,
    *,
    softcap: float | None,
    across: Collectives,
) -> tuple[Array, Array]:
    """d logp / d logits = onehot(label) - softmax(logits), times 1 - tanh^2 under a soft-cap."""
    label_P, lse_P, grad_P = (
        label_SA.reshape(-1) - across.vocab_start(unembed_VD.shape[0]),
        lse_SA.reshape(-1),
        grad_SA.reshape(-1),
    )

    def of_logits(i: Array, logits_bP: Array, entry_b: Array) -> Array:
        is_label_bP = entry_b[:, None] == label_P[None]
        return (is_label_bP - jnp.exp(logits_bP - lse_P[None])) * grad_P[None]

    return pulled_back(of_logits, h_SAD, unembed_VD, softcap, across, kept)


def pulled_back(
    of_logits: Any, h_SAD: Array, unembed_VD: Array, softcap: float | None, across: Collectives, kept: Array | None = None
) -> tuple[Array, Array]:
    """The gradients of the states and of this device's part of the unembedding, each in its own dtype, from those of the logits:
    `of_logits` maps (number of a block, its logits_bP, its entries of the vocabulary) to (b, P). `kept`: the logits of all
    blocks, (blocks, b, P); None = they are computed again."""
    S, A, D = h_SAD.shape
    h_PD = operand(h_SAD, across).reshape(S * A, D)
    size, blocks = blocks_of(S * A, unembed_VD.shape[0])

    def body(carry: Any, x: tuple[Array, Array | None]) -> tuple[Any, None]:
        dh_DP, dw_VD = carry
        i, kept_bP = x
        start, w_bD, logits_bP, tanh_bP, entry_b, own_b = block_of(i, size, unembed_VD, h_PD, softcap, across, kept_bP)
        d_bP = of_logits(i, logits_bP, entry_b)
        if tanh_bP is not None:
            d_bP *= 1 - tanh_bP**2
        d_bP = jnp.where(own_b[:, None], d_bP, 0.0).astype(h_PD.dtype)
        dh_DP += jnp.einsum("bd,bp->dp", w_bD, d_bP, preferred_element_type=jnp.float32)
        dw_bD = across.scatter_embed(jnp.einsum("bp,pd->bd", d_bP, h_PD, preferred_element_type=jnp.float32))
        # Each entry's gradient comes from one block and is complete there; where the last block overlaps, it adds 0.
        old_bD = jax.lax.dynamic_slice_in_dim(dw_VD, start, size)
        return (dh_DP, jax.lax.dynamic_update_slice_in_dim(dw_VD, old_bD + dw_bD.astype(dw_VD.dtype), start, 0)), None

    zeros = (jnp.zeros((D, S * A), jnp.float32), jnp.zeros(unembed_VD.shape, unembed_VD.dtype))
    (dh_DP, dw_VD), _ = jax.lax.scan(body, zeros, (jnp.arange(blocks), kept))
    return across.sum_vocab(dh_DP).T.astype(h_SAD.dtype).reshape(S, A, D), dw_VD
