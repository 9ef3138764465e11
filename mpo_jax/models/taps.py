"""What can be read inside a forward pass? The residual stream after each layer, and an MLP's input and first products.

A layer hands each of these to a tap as [S, T, width]. What no reader asks for is not in the program, and what one keeps is what
its function returns (a pooled state, say): nothing holds all layers and tokens unless that function does.
"""

from collections.abc import Callable, Mapping

from mpo_jax.types import Array

SITES = ("residual", "mlp_input", "gate", "up")  # after a layer; of its MLP: the normed input, and its products before activation
Tap = Callable[[str, Array], None]  # (site, value)
Readers = Mapping[str, Callable[[Array], Array]]  # site -> what is kept of its value


def no_tap(_site: str, _value: Array) -> None:
    """Reads nothing."""


def tap_into(found: dict[str, Array], readers: Readers) -> Tap:
    """A tap that keeps what `readers` make of a layer's values, by site."""

    def tap(site: str, value: Array) -> None:
        if site in readers:
            found[site] = readers[site](value)

    return tap
