"""How far are a model's next-token distributions from another's? The Kullback-Leibler divergence at each scored position.

As in `logprob`, neither pass holds more than one block of either model's logits: the forward pass keeps running maxima and sums
per token, the backward pass computes each block again, and the vocabulary, the tokens and the width may be split over the mesh.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mpo_jax.scoring.token_logprob import HIDDEN, SCORED, UNEMBED, Axes, block_of, blocks_of, on_mesh, operand, pulled_back
from mpo_jax.types import Array

MODELS = (HIDDEN, UNEMBED, HIDDEN, UNEMBED)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def token_divergences(
    h_SAD: Array, unembed_VD: Array, ref_h_SAD: Array, ref_unembed_VD: Array, softcap: float | None, of_policy: bool
) -> Array:
    """KL(policy || reference) where `of_policy`, else KL(reference || policy), nats, f32 (S, A). The first two arguments are
    the policy's states and unembedding and have gradients; the reference's have none."""
    run = on_mesh(functools.partial(_forward, of_policy=of_policy), MODELS, (SCORED, SCORED, SCORED), softcap)
    return run(h_SAD, unembed_VD, ref_h_SAD, ref_unembed_VD)[0]


def _token_divergences_fwd(
    h_SAD: Array, unembed_VD: Array, ref_h_SAD: Array, ref_unembed_VD: Array, softcap: float | None, of_policy: bool
) -> tuple[Array, Any]:
    run = on_mesh(functools.partial(_forward, of_policy=of_policy), MODELS, (SCORED, SCORED, SCORED), softcap)
    kl_SA, lse_SA, ref_lse_SA = run(h_SAD, unembed_VD, ref_h_SAD, ref_unembed_VD)
    return kl_SA, (h_SAD, unembed_VD, ref_h_SAD, ref_unembed_VD, kl_SA, lse_SA, ref_lse_SA)


def _token_divergences_bwd(softcap: float | None, of_policy: bool, saved: Any, grad_SA: Array) -> tuple[Any, ...]:
    run = on_mesh(functools.partial(_backward, of_policy=of_policy), (*MODELS, *4 * (SCORED,)), (HIDDEN, UNEMBED), softcap)
    return *run(*saved, grad_SA), None, None


token_divergences.defvjp(_token_divergences_fwd, _token_divergences_bwd)


def _forward(
    h_SAD: Array,
    unembed_VD: Array,
    ref_h_SAD: Array,
    ref_unembed_VD: Array,
    *,
    softcap: float | None,
    axes: Axes,
    of_policy: bool,
) -> tuple[Array, Array, Array]:
    """Divergences, and the log-sum-exps of policy and reference, (S, A) each.

    KL(p || q) = sum_v p_v (a_v - b_v) - lse(a) + lse(b) for logits a of p and b of q.
    """
    S, A, D = h_SAD.shape
    h_ND, ref_h_ND = (operand(h, axes).reshape(S * A, D) for h in (h_SAD, ref_h_SAD))
    size, blocks = blocks_of(S * A, unembed_VD.shape[0])

    def body(carry: Any, i: Array) -> tuple[Any, None]:
        (top_N, sum_N), (ref_top_N, ref_sum_N), difference_N = carry
        _, _, logits_bN, _, _, own_b = block_of(i, size, unembed_VD, h_ND, softcap, axes)
        _, _, ref_logits_bN, _, _, _ = block_of(i, size, ref_unembed_VD, ref_h_ND, softcap, axes)
        own_bN = jnp.broadcast_to(own_b[:, None], logits_bN.shape)

        def renewed(top_N: Array, sum_N: Array, logits_bN: Array) -> tuple[Array, Array, Array, Array]:
            """(new maximum, sum of exps below it, those exps, the factor of what was summed below the old one)."""
            new_top_N = jnp.maximum(top_N, jnp.where(own_bN, logits_bN, -jnp.inf).max(axis=0))
            exp_bN = jnp.where(own_bN, jnp.exp(logits_bN - new_top_N[None]), 0.0)
            shrink_N = jnp.exp(top_N - new_top_N)
            return new_top_N, sum_N * shrink_N + exp_bN.sum(axis=0), exp_bN, shrink_N

        top_N, sum_N, exp_bN, shrink_N = renewed(top_N, sum_N, logits_bN)
        ref_top_N, ref_sum_N, ref_exp_bN, ref_shrink_N = renewed(ref_top_N, ref_sum_N, ref_logits_bN)
        if of_policy:
            difference_N = difference_N * shrink_N + (exp_bN * (logits_bN - ref_logits_bN)).sum(axis=0)
        else:
            difference_N = difference_N * ref_shrink_N + (ref_exp_bN * (ref_logits_bN - logits_bN)).sum(axis=0)
        return ((top_N, sum_N), (ref_top_N, ref_sum_N), difference_N), None

    zeros = jnp.zeros(S * A, jnp.float32)
    start = ((zeros - jnp.inf, zeros), (zeros - jnp.inf, zeros), zeros)
    (ours, theirs, difference_N), _ = jax.lax.scan(body, start, jnp.arange(blocks))

    def whole(top_N: Array, sum_N: Array) -> tuple[Array, Array, Array]:
        """(log-sum-exp, sum of exps, the factor of this device's part) over the whole vocabulary."""
        highest_N = axes.max_vocab(top_N)
        shrink_N = jnp.exp(top_N - highest_N)
        total_N = axes.sum_vocab(sum_N * shrink_N)
        return highest_N + jnp.log(total_N), total_N, shrink_N

    (lse_N, total_N, shrink_N), (ref_lse_N, ref_total_N, ref_shrink_N) = whole(*ours), whole(*theirs)
    if of_policy:
        kl_N = axes.sum_vocab(difference_N * shrink_N) / total_N - lse_N + ref_lse_N
    else:
        kl_N = axes.sum_vocab(difference_N * ref_shrink_N) / ref_total_N - ref_lse_N + lse_N
    return kl_N.reshape(S, A), lse_N.reshape(S, A), ref_lse_N.reshape(S, A)


def _backward(
    h_SAD: Array,
    unembed_VD: Array,
    ref_h_SAD: Array,
    ref_unembed_VD: Array,
    kl_SA: Array,
    lse_SA: Array,
    ref_lse_SA: Array,
    grad_SA: Array,
    *,
    softcap: float | None,
    axes: Axes,
    of_policy: bool,
) -> tuple[Array, Array]:
    """d KL(p || q) / d a_v = p_v (log p_v - log q_v - KL) and d KL(q || p) / d a_v = p_v - q_v for logits a of p."""
    kl_N, lse_N, ref_lse_N, grad_N = (x.reshape(-1) for x in (kl_SA, lse_SA, ref_lse_SA, grad_SA))
    ref_h_ND = operand(ref_h_SAD, axes).reshape(len(kl_N), -1)
    size, _ = blocks_of(len(kl_N), unembed_VD.shape[0])

    def of_logits(i: Array, logits_bN: Array, _: Array) -> Array:
        ref_logits_bN = block_of(i, size, ref_unembed_VD, ref_h_ND, softcap, axes)[2]
        logp_bN, ref_logp_bN = logits_bN - lse_N[None], ref_logits_bN - ref_lse_N[None]
        p_bN = jnp.exp(logp_bN)
        d_bN = p_bN * (logp_bN - ref_logp_bN - kl_N[None]) if of_policy else p_bN - jnp.exp(ref_logp_bN)
        return d_bN * grad_N[None]

    return pulled_back(of_logits, h_SAD, unembed_VD, softcap, axes)
