"""What is the log-probability of each scored token? The fused unembedding: hidden states in, log-probabilities out.

Neither pass holds more than one block of logits, [tokens, a slice of the vocabulary]. The forward pass keeps a running maximum
and sum per token (the online log-sum-exp) and saves that alone; the backward pass computes each block again. The vocabulary may
be split over `tensor`, the tokens over the batch axes, and the unembedding's width over `fsdp`: a block of it is gathered when
its turn comes, and its gradient scattered, so that no device ever holds the whole matrix.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mpo_jax.devices.sharding import RULES, spec
from mpo_jax.types import Array

BLOCK = 2**22  # logits of one block on one device: 16 MB in f32
SMALLEST_BLOCK = 512  # entries of the vocabulary: below that the products are too thin

HIDDEN, UNEMBED, SCORED = ("batch", None, None), ("vocab", "embed"), ("batch", None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def token_logps(h_SAD: Array, unembed_VD: Array, label_SA: Array, softcap: float | None) -> Array:
    """log p(label | h), nats, f32 (S, A). The states and the unembedding share a dtype; products accumulate in float32."""
    return on_mesh(_forward, (HIDDEN, UNEMBED, SCORED), (SCORED, SCORED), softcap)(h_SAD, unembed_VD, label_SA)[0]


def _token_logps_fwd(h_SAD: Array, unembed_VD: Array, label_SA: Array, softcap: float | None) -> tuple[Array, Any]:
    run = on_mesh(_forward, (HIDDEN, UNEMBED, SCORED), (SCORED, SCORED), softcap)
    logp_SA, lse_SA = run(h_SAD, unembed_VD, label_SA)
    return logp_SA, (h_SAD, unembed_VD, label_SA, lse_SA)


def _token_logps_bwd(softcap: float | None, saved: Any, grad_SA: Array) -> tuple[Array, Array, None]:
    run = on_mesh(_backward, (HIDDEN, UNEMBED, SCORED, SCORED, SCORED), (HIDDEN, UNEMBED), softcap)
    return *run(*saved, grad_SA), None


token_logps.defvjp(_token_logps_fwd, _token_logps_bwd)


def on_mesh(f: Any, in_axes: tuple[Any, ...], out_axes: tuple[Any, ...], softcap: float | None) -> Any:
    """`f` on each device's own part of the arrays; outside of a mesh, on the arrays."""
    mesh = jax.sharding.get_abstract_mesh()
    f = functools.partial(f, softcap=softcap, axes=Axes(mesh))
    if mesh.empty:
        return f
    # The reductions are written out below and nothing is differentiated through this map, so nothing is left to check.
    return jax.shard_map(f, in_specs=tuple(map(spec, in_axes)), out_specs=tuple(map(spec, out_axes)), check_vma=False)


class Axes:
    """The collectives over the mesh axes of our logical axes; none over an axis that cuts nothing, where XLA would keep it and
    turn its operand (and with it, before the loop over blocks, the whole unembedding) into the layout that it prefers."""

    def __init__(self, mesh: Any):
        def cut(axis: str) -> tuple[str, ...]:
            rule = RULES[axis]
            return tuple(name for name in ((rule,) if isinstance(rule, str) else rule or ()) if mesh.shape.get(name, 1) > 1)

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


def operand(x: Array, axes: Axes) -> Array:
    return x.astype(jnp.float32) if axes.widen else x


def blocks_of(tokens: int, vocab: int) -> tuple[int, int]:
    """(entries of the vocabulary in a block, number of blocks)."""
    size = min(vocab, max(SMALLEST_BLOCK, BLOCK // tokens // SMALLEST_BLOCK * SMALLEST_BLOCK))
    return size, -(-vocab // size)


def block_of(i: Array, size: int, unembed_VD: Array, h_ND: Array, softcap: float | None, axes: Axes) -> Any:
    """(start, unembedding of block i, its logits, the soft-cap's tanh, which of its entries are its own).

    Logits have the vocabulary first: each product then finds its operands as they lie, or turns the narrower one.

    The last block starts early enough to be whole, and leaves out what the one before it had.
    """
    start = jnp.minimum(i * size, unembed_VD.shape[0] - size)
    w_bD = operand(axes.gather_embed(jax.lax.dynamic_slice_in_dim(unembed_VD, start, size)), axes)
    logits_bN = jnp.einsum("bd,nd->bn", w_bD, h_ND, preferred_element_type=jnp.float32)
    tanh_bN = None
    if softcap is not None:
        tanh_bN = jnp.tanh(logits_bN / softcap)
        logits_bN = softcap * tanh_bN
    entry_b = start + jnp.arange(size)
    return start, w_bD, logits_bN, tanh_bN, entry_b, entry_b >= i * size


def _forward(h_SAD: Array, unembed_VD: Array, label_SA: Array, *, softcap: float | None, axes: Axes) -> tuple[Array, Array]:
    """Log-probabilities and log-sum-exps, (S, A) each."""
    S, A, D = h_SAD.shape
    h_ND, V = operand(h_SAD, axes).reshape(S * A, D), unembed_VD.shape[0]
    label_N = label_SA.reshape(S * A) - axes.vocab_start(V)
    size, blocks = blocks_of(S * A, V)

    def body(carry: Any, i: Array) -> tuple[Any, None]:
        top_N, sum_N, label_logit_N = carry
        _, _, logits_bN, _, entry_b, own_b = block_of(i, size, unembed_VD, h_ND, softcap, axes)
        logits_bN = jnp.where(own_b[:, None], logits_bN, -jnp.inf)
        new_top_N = jnp.maximum(top_N, logits_bN.max(axis=0))
        sum_N = sum_N * jnp.exp(top_N - new_top_N) + jnp.exp(logits_bN - new_top_N[None]).sum(axis=0)
        is_label_bN = own_b[:, None] & (entry_b[:, None] == label_N[None])
        return (new_top_N, sum_N, label_logit_N + jnp.where(is_label_bN, logits_bN, 0.0).sum(axis=0)), None

    zeros = jnp.zeros(S * A, jnp.float32)
    (top_N, sum_N, label_logit_N), _ = jax.lax.scan(body, (zeros - jnp.inf, zeros, zeros), jnp.arange(blocks))
    highest_N = axes.max_vocab(top_N)
    lse_N = highest_N + jnp.log(axes.sum_vocab(sum_N * jnp.exp(top_N - highest_N)))
    return (axes.sum_vocab(label_logit_N) - lse_N).reshape(S, A), lse_N.reshape(S, A)


def _backward(
    h_SAD: Array,
    unembed_VD: Array,
    label_SA: Array,
    lse_SA: Array,
    grad_SA: Array,
    *,
    softcap: float | None,
    axes: Axes,
) -> tuple[Array, Array]:
    """d logp / d logits = onehot(label) - softmax(logits), times 1 - tanh^2 under a soft-cap."""
    label_N, lse_N, grad_N = label_SA.reshape(-1) - axes.vocab_start(unembed_VD.shape[0]), lse_SA.reshape(-1), grad_SA.reshape(-1)

    def of_logits(i: Array, logits_bN: Array, entry_b: Array) -> Array:
        is_label_bN = entry_b[:, None] == label_N[None]
        return (is_label_bN - jnp.exp(logits_bN - lse_N[None])) * grad_N[None]

    return pulled_back(of_logits, h_SAD, unembed_VD, softcap, axes)


def pulled_back(of_logits: Any, h_SAD: Array, unembed_VD: Array, softcap: float | None, axes: Axes) -> tuple[Array, Array]:
    """Gradients of the states and of this device's part of the unembedding, each in its own dtype, from those of the logits:
    `of_logits` maps (number of a block, its logits_bN, its entries of the vocabulary) to (b, N)."""
    S, A, D = h_SAD.shape
    h_ND = operand(h_SAD, axes).reshape(S * A, D)
    size, blocks = blocks_of(S * A, unembed_VD.shape[0])

    def body(carry: Any, i: Array) -> tuple[Any, None]:
        dh_DN, dw_VD = carry
        start, w_bD, logits_bN, tanh_bN, entry_b, own_b = block_of(i, size, unembed_VD, h_ND, softcap, axes)
        d_bN = of_logits(i, logits_bN, entry_b)
        if tanh_bN is not None:
            d_bN *= 1 - tanh_bN**2
        d_bN = jnp.where(own_b[:, None], d_bN, 0.0).astype(h_ND.dtype)
        dh_DN += jnp.einsum("bd,bn->dn", w_bD, d_bN, preferred_element_type=jnp.float32)
        dw_bD = axes.scatter_embed(jnp.einsum("bn,nd->bd", d_bN, h_ND, preferred_element_type=jnp.float32))
        # An entry has one block, whose gradient is complete; where the last block overlaps it adds 0.
        old_bD = jax.lax.dynamic_slice_in_dim(dw_VD, start, size)
        return (dh_DN, jax.lax.dynamic_update_slice_in_dim(dw_VD, old_bD + dw_bD.astype(dw_VD.dtype), start, 0)), None

    zeros = (jnp.zeros((D, S * A), jnp.float32), jnp.zeros(unembed_VD.shape, unembed_VD.dtype))
    (dh_DN, dw_VD), _ = jax.lax.scan(body, zeros, jnp.arange(blocks))
    return axes.sum_vocab(dh_DN).T.astype(h_SAD.dtype).reshape(S, A, D), dw_VD
