"""What is computed to write an answer? A prefill reads the prompts, then one loop writes until every row has stopped.

Both run the model's own layers: `attend` is a closure over a cache. A row of a cache has T slots for its prompt and N for its
answer. How many slots of the prompt are real is told by its length, never by a token's id; every row writes its n-th token to
slot T + n, so that all rows are updated in place together.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mpo_jax.devices.sharding import LogicalAxes, constrain, named, shards
from mpo_jax.generation.sampling import Draw, choose
from mpo_jax.generation.weights import as_declared
from mpo_jax.models.attention import cached
from mpo_jax.models.attention.api import attention
from mpo_jax.models.decoder import Attend, Model
from mpo_jax.types import Array, Params, Places

CACHE = ("batch", "kv_heads", None, "head_dim")
LOGITS = ("batch", "vocab")


class KeyValues(NamedTuple):
    """What a layer has seen, [B, K, U, H] each in the compute dtype."""

    k_BKUH: Any  # arrays, or their shapes and shardings
    v_BKUH: Any


Cache = tuple[KeyValues, ...]  # one a layer


class Answers(NamedTuple):
    """B answers of up to N tokens; `tokens_BN` int32 is 0 after the end, `count_B` int32 includes the end token, `ended_B` tells
    whether there is one, `steps` int32 () is the number of times that the loop ran over all rows."""

    tokens_BN: Array
    count_B: Array
    ended_B: Array
    steps: Array


def abstract_cache(model: Model, rows: int, slots: int, dtype: Any, mesh: Mesh) -> Cache:
    c = model.config
    shape = (rows, c.kv_heads, slots, c.head_dim)
    one = jax.ShapeDtypeStruct(shape, dtype, sharding=named(mesh, CACHE, shape, "cache"))
    return (KeyValues(one, one),) * c.layers


def abstract_logits(model: Model, rows: int, mesh: Mesh) -> jax.ShapeDtypeStruct:
    shape = (rows, model.config.vocab_size)
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=named(mesh, LOGITS, shape, "logits"))


def prefill(
    model: Model, params: Params, cache: Cache, logits_BV: Array, tokens_GT: Array, length_G: Array, first: Array
) -> tuple[Cache, Array]:
    """Reads some rows of a batch, the same number of each copy of the weights, from its row `first` int32 () on: (the cache with
    their prompts in its first slots, the logits of their answers' first tokens f32 [B, V] beside those of the other rows).

    `params` are those of `weights.placed`; `tokens_GT` int32 holds each prompt from its first slot on, `length_G` int32 its
    number of tokens, at least 1."""
    params = as_declared(model, params)
    c, filled = model.config, list(cache)
    position_GT = jnp.broadcast_to(jnp.arange(tokens_GT.shape[1], dtype=jnp.int32)[None], tokens_GT.shape)
    places = Places(position_GT, (position_GT < length_G[:, None]).astype(jnp.int32))

    def attend_of(layer: int) -> Attend:
        def attend(q_GTNH: Array, k_GTKH: Array, v_GTKH: Array) -> Array:
            filled[layer] = KeyValues(
                *(
                    _put_rows(old, jnp.swapaxes(new, 1, 2), first, CACHE)
                    for old, new in zip(cache[layer], (k_GTKH, v_GTKH), strict=True)
                )
            )
            how = {"scale": c.query_scale, "softcap": c.attn_softcap, "window": c.layer_windows[layer]}
            return attention(q_GTNH, k_GTKH, v_GTKH, places, places, **how)

        return attend

    hidden_GTD = model.unrolled(params, tokens_GT, position_GT, [attend_of(layer) for layer in range(c.layers)])
    last_G1D = jnp.take_along_axis(hidden_GTD, (length_G - 1)[:, None, None], axis=1)
    return tuple(filled), _put_rows(logits_BV, logits(model, params, last_G1D), first, LOGITS)


def next_logits(
    model: Model, params: Params, cache: Cache, token_B: Array, length_B: Array, number: Array, prompt_slots: int
) -> tuple[Cache, Array]:
    """One step: every row's token number `number` int32 () enters the cache; (the cache, logits of the token after it f32
    [B, V])."""
    params = as_declared(model, params)
    c, grown = model.config, list(cache)
    B, _, U, _ = cache[0].k_BKUH.shape
    slot_U = jnp.arange(U, dtype=jnp.int32)
    mine_U = slot_U >= prompt_slots
    keys = Places(
        jnp.where(mine_U[None], length_B[:, None] + slot_U[None] - prompt_slots, slot_U[None]),
        (mine_U[None] | (slot_U[None] < length_B[:, None])).astype(jnp.int32),
    )
    queries = Places((length_B + number)[:, None], jnp.ones((B, 1), jnp.int32))

    def attend_of(layer: int) -> Attend:
        def attend(q_B1NH: Array, k_B1KH: Array, v_B1KH: Array) -> Array:
            new = (jnp.swapaxes(x, 1, 2) for x in (k_B1KH, v_B1KH))
            grown[layer] = KeyValues(*(_put(*pair, prompt_slots + number) for pair in zip(cache[layer], new, strict=True)))
            how = {"scale": c.query_scale, "softcap": c.attn_softcap, "window": c.layer_windows[layer]}
            return cached.attend(q_B1NH, *grown[layer], queries, keys, **how)

        return attend

    attends = [attend_of(layer) for layer in range(c.layers)]
    hidden_B1D = model.unrolled(params, token_B[:, None], queries.position, attends)
    return tuple(grown), logits(model, params, hidden_B1D)


def decode(
    model: Model,
    params: Params,
    cache: Cache,
    logits_BV: Array,
    length_B: Array,
    limit_B: Array,
    key_B2: Array,
    stop_E: Array,
    draw: Draw,
    *,
    new_slots: int,
) -> tuple[Cache, Answers]:
    """Writes until every row has stopped: at one of the ids `stop_E`, or at `limit_B` int32 tokens, at most `new_slots`; a row
    whose limit is 0 only fills up the batch."""
    B, prompt_slots = len(length_B), cache[0].k_BKUH.shape[2] - new_slots

    def chosen(number: Array, logits_BV: Array, so_far: Answers) -> tuple[Array, Answers, Array]:
        token_B = choose(logits_BV, key_B2, number, draw)
        going_B = ~so_far.ended_B & (so_far.count_B < limit_B)
        token_B = jnp.where(going_B, token_B, 0)
        tokens_BN = jax.lax.dynamic_update_slice(so_far.tokens_BN, token_B[:, None], (0, number))
        count_B = so_far.count_B + going_B
        ended_B = so_far.ended_B | (going_B & jnp.isin(token_B, stop_E))
        return token_B, Answers(tokens_BN, count_B, ended_B, number + 1), jnp.any(~ended_B & (count_B < limit_B))

    def more(state: Any) -> Array:
        return state[-1]

    def write(state: Any) -> Any:
        cache, token_B, so_far, _ = state
        cache, logits_BV = next_logits(model, params, cache, token_B, length_B, so_far.steps - 1, prompt_slots)
        return cache, *chosen(so_far.steps, logits_BV, so_far)

    none = Answers(jnp.zeros((B, new_slots), jnp.int32), jnp.zeros(B, jnp.int32), jnp.zeros(B, bool), jnp.int32(0))
    first = chosen(jnp.int32(0), logits_BV, none)
    cache, _, answers, _ = jax.lax.while_loop(more, write, (cache, *first))
    return cache, answers


def logits(model: Model, params: Params, hidden_B1D: Array) -> Array:
    """f32 [B, V]."""
    with jax.named_scope("logits"):
        read_BD = model.readout(hidden_B1D[:, 0])
        logits_VB = jnp.einsum("VD,BD->VB", model.unembedding(params), read_BD, preferred_element_type=jnp.float32)
        if model.final_softcap is not None:
            logits_VB = model.final_softcap * jnp.tanh(logits_VB / model.final_softcap)
        return constrain(logits_VB.T, *LOGITS)


def _put_rows(old: Array, new: Array, first: Array, axes: LogicalAxes) -> Array:
    """`new` in place of as many rows of each copy of the weights, from its row `first` on."""
    mesh = jax.sharding.get_abstract_mesh()
    copies = 1 if mesh.empty else shards(mesh, "batch")

    def by_copy(x: Array) -> Array:
        return constrain(x.reshape(copies, -1, *x.shape[1:]), axes[0], None, *axes[1:])

    old_, new_ = by_copy(old), by_copy(new.astype(old.dtype))
    zero = jnp.zeros_like(first)
    put = jax.lax.dynamic_update_slice(old_, new_, (zero, first, *[zero] * (old.ndim - 1)))
    return constrain(put.reshape(old.shape), *axes)


def _put(old_BKUH: Array, new_BKTH: Array, slot: Any) -> Array:
    return jax.lax.dynamic_update_slice(old_BKUH, new_BKTH.astype(old_BKUH.dtype), (0, 0, slot, 0))
