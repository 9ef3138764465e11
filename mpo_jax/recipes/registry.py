"""Which recipes are there? One line adds one: `"mine": mine.Mine`."""

from mpo_jax.recipes import icr, lidr, mapo, on_policy, sdrrl
from mpo_jax.recipes.base import Recipe

RECIPES: dict[str, type[Recipe]] = {
    "on_policy": on_policy.OnPolicy,
    "lidr": lidr.Lidr,
    "icr": icr.Icr,
    "mapo": mapo.Mapo,
    "sdrrl": sdrrl.Sdrrl,
}
