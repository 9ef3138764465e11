"""States of prompts, made by hand, for tests of methods that read them."""

import jax.numpy as jnp
import numpy as np

from mpo_jax.types import Array, Rows, Scores


def prompts(source, target, *, weight=None, language=None, prompt=None, languages=("sw", "zh"), group: int = 1) -> Scores:
    """The policy's scores where B prompts have these states, (B, D) of each side; without more said, of B different prompts."""
    B = len(target)

    def ints(x, default) -> Array:
        return jnp.asarray(default if x is None else x, jnp.int32)

    weight_B = jnp.asarray(np.ones(B) if weight is None else weight, jnp.float32)
    rows = Rows(weight_B, ints(language, [0] * B), ints(prompt, range(B)), languages, group)
    return Scores(prompts={"source": jnp.asarray(source), "target": jnp.asarray(target)}, rows=rows)


def gradient_by_differences(f, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Of a function of a float64 array, by central differences."""
    found = np.zeros_like(x)
    for i in np.ndindex(*x.shape):
        moved = np.zeros_like(x)
        moved[i] = step
        found[i] = (f(x + moved) - f(x - moved)) / (2 * step)
    return found
