"""Which recipes are there? One line adds one: `"mine": mine.Mine`."""

from mpo_jax.errors import check_choice
from mpo_jax.recipes import on_policy
from mpo_jax.recipes.base import Recipe

RECIPES: dict[str, type[Recipe]] = {
    "on_policy": on_policy.OnPolicy,
}


def recipe_type(name: str) -> type[Recipe]:
    """Errors: an unknown name."""
    check_choice("recipe", name, RECIPES)
    return RECIPES[name]
