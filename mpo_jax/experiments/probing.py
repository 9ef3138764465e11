"""Where are the languages in a base model of the small world? The probe of LENS, from unsafe requests."""

import jax

from mpo_jax.devices.sharding import MeshConfig, make_mesh
from mpo_jax.experiments.learning import MODEL
from mpo_jax.experiments.world import LANGUAGES, PAD, World, unsafe_requests
from mpo_jax.losses.language_subspaces import Subspaces
from mpo_jax.scoring.language_probe import mean_state
from mpo_jax.types import Params


def probe(world: World, params: Params, seed: int, prompts: int) -> Subspaces:
    """From `prompts` requests, the same in every language."""
    asked = unsafe_requests(seed, prompts)
    with jax.set_mesh(mesh := make_mesh(MeshConfig(), jax.devices()[:1])):
        means = {of: mean_state(MODEL, params, [world.prompt(of, one) for one in asked], mesh, PAD) for of in LANGUAGES}
    return Subspaces.of(means)
