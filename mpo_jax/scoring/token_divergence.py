"""How far are a model's next-token distributions from another's? The Kullback-Leibler divergence at each scored position.

As in `token_logprob`, neither pass holds more than one block of either model's logits: the forward pass keeps running maxima and
sums per token, the backward pass recomputes each block, and the vocabulary, the tokens and the width may be split over the mesh.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mpo_jax.scoring.token_logprob import HIDDEN, SCORED, UNEMBED, Collectives, block_of, blocks_of, on_mesh, operand, pulled_back
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
    across: Collectives,
    of_policy: bool,
) -> tuple[Array, Array, Array]:
    """Divergences, and the log-sum-exps of policy and reference, (S, A) each.

    KL(p || q) = sum_v p_v (a_v - b_v) - lse(a) + lse(b) for logits a of p and b of q.
    """
    S, A, D = h_SAD.shape
    h_PD, ref_h_PD = (operand(h, across).reshape(S * A, D) for h in (h_SAD, ref_h_SAD))
    size, blocks = blocks_of(S * A, unembed_VD.shape[0])

    def body(carry: Any, i: Array) -> tuple[Any, None]:
        (top_P, sum_P), (ref_top_P, ref_sum_P), difference_P = carry
        _, _, logits_bP, _, _, own_b = block_of(i, size, unembed_VD, h_PD, softcap, across)
        _, _, ref_logits_bP, _, _, _ = block_of(i, size, ref_unembed_VD, ref_h_PD, softcap, across)
        own_bP = jnp.broadcast_to(own_b[:, None], logits_bP.shape)

        def renewed(top_P: Array, sum_P: Array, logits_bP: Array) -> tuple[Array, Array, Array, Array]:
            """(new maximum, sum of exps below it, those exps, the factor of what was summed below the old one)."""
            new_top_P = jnp.maximum(top_P, jnp.where(own_bP, logits_bP, -jnp.inf).max(axis=0))
            exp_bP = jnp.where(own_bP, jnp.exp(logits_bP - new_top_P[None]), 0.0)
            shrink_P = jnp.exp(top_P - new_top_P)
            return new_top_P, sum_P * shrink_P + exp_bP.sum(axis=0), exp_bP, shrink_P

        top_P, sum_P, exp_bP, shrink_P = renewed(top_P, sum_P, logits_bP)
        ref_top_P, ref_sum_P, ref_exp_bP, ref_shrink_P = renewed(ref_top_P, ref_sum_P, ref_logits_bP)
        if of_policy:
            difference_P = difference_P * shrink_P + (exp_bP * (logits_bP - ref_logits_bP)).sum(axis=0)
        else:
            difference_P = difference_P * ref_shrink_P + (ref_exp_bP * (ref_logits_bP - logits_bP)).sum(axis=0)
        return ((top_P, sum_P), (ref_top_P, ref_sum_P), difference_P), None

    zeros = jnp.zeros(S * A, jnp.float32)
    start = ((zeros - jnp.inf, zeros), (zeros - jnp.inf, zeros), zeros)
    (ours, theirs, difference_P), _ = jax.lax.scan(body, start, jnp.arange(blocks))

    def whole(top_P: Array, sum_P: Array) -> tuple[Array, Array, Array]:
        """(log-sum-exp, sum of exps, the factor of this device's part) over the whole vocabulary."""
        highest_P = across.max_vocab(top_P)
        shrink_P = jnp.exp(top_P - highest_P)
        total_P = across.sum_vocab(sum_P * shrink_P)
        return highest_P + jnp.log(total_P), total_P, shrink_P

    (lse_P, total_P, shrink_P), (ref_lse_P, ref_total_P, ref_shrink_P) = whole(*ours), whole(*theirs)
    if of_policy:
        kl_P = across.sum_vocab(difference_P * shrink_P) / total_P - lse_P + ref_lse_P
    else:
        kl_P = across.sum_vocab(difference_P * ref_shrink_P) / ref_total_P - ref_lse_P + lse_P
    return kl_P.reshape(S, A), lse_P.reshape(S, A), ref_lse_P.reshape(S, A)


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
    across: Collectives,
    of_policy: bool,
) -> tuple[Array, Array]:
    """d KL(p || q) / d a_v = p_v (log p_v - log q_v - KL) and d KL(q || p) / d a_v = p_v - q_v for logits a of p."""
    kl_P, lse_P, ref_lse_P, grad_P = (x.reshape(-1) for x in (kl_SA, lse_SA, ref_lse_SA, grad_SA))
    ref_h_PD = operand(ref_h_SAD, across).reshape(len(kl_P), -1)
    size, _ = blocks_of(len(kl_P), unembed_VD.shape[0])

    def of_logits(i: Array, logits_bP: Array, _: Array) -> Array:
        ref_logits_bP = block_of(i, size, ref_unembed_VD, ref_h_PD, softcap, across)[2]
        logp_bP, ref_logp_bP = logits_bP - lse_P[None], ref_logits_bP - ref_lse_P[None]
        p_bP = jnp.exp(logp_bP)
        d_bP = p_bP * (logp_bP - ref_logp_bP - kl_P[None]) if of_policy else p_bP - jnp.exp(ref_logp_bP)
        return d_bP * grad_P[None]

    return pulled_back(of_logits, h_SAD, unembed_VD, softcap, across)
