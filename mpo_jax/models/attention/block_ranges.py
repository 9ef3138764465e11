"""Which blocks of keys may a block of queries see? Decided before a score is computed, by ranges of segments and positions."""

import jax.numpy as jnp

from mpo_jax.types import Array, Places

_FAR = 2**31 - 1
_POSITIONS = 2**18  # more than a sequence has; a row may then have 8191 segments


def meeting(queries: Places, keys: Places, window: int | None) -> Array:
    """bool [b, c]: whether a query of block b of a row may see a key of block c.

    Places are those of one row, [b, t] and [c, u]; where there is no sequence, the segment is 0 for queries and -1 for keys. No
    block of keys that is seen is left out, whatever the order of the segments; some that are not may be included.
    """

    def low_high(x_bt: Array, real_bt: Array) -> tuple[Array, Array]:
        return jnp.where(real_bt, x_bt, _FAR).min(1), jnp.where(real_bt, x_bt, -_FAR).max(1)

    q_low_b, q_high_b = low_high(queries.segment, queries.segment > 0)
    k_low_c, k_high_c = low_high(keys.segment, keys.segment > 0)
    meets_bc = (q_low_b[:, None] <= k_high_c[None, :]) & (k_low_c[None, :] <= q_high_b[:, None])
    # Segment and position as one number: a query sees no key with a higher one.
    _, last_b = low_high(queries.segment * _POSITIONS + queries.position, queries.segment > 0)
    first_c, _ = low_high(keys.segment * _POSITIONS + keys.position, keys.segment > 0)
    meets_bc &= first_c[None, :] <= last_b[:, None]
    if window is not None:
        meets_bc &= queries.position.min(1)[:, None] - keys.position.max(1)[None, :] < window
    return meets_bc


def ranges(meets_bc: Array) -> tuple[Array, Array]:
    """int32 [b] twice: for each b the first c that it meets, and the one after the last; equal where it meets none."""
    blocks = meets_bc.shape[1]
    begin_b, end_b = jnp.argmax(meets_bc, axis=1), blocks - jnp.argmax(meets_bc[:, ::-1], axis=1)
    return begin_b, jnp.where(meets_bc.any(axis=1), end_b, begin_b)


def of_keys(segment: Array) -> Array:
    """Segment 0 is no sequence: its keys get a number that no query has."""
    return jnp.where(segment == 0, -1, segment)
