"""How is the small world's base model made? From scratch, on texts in all languages, aligned in the dominant one."""

import dataclasses
import functools
import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mpo_jax.experiments.code import closure, digest
from mpo_jax.experiments.learning import MODEL, make_train, stacked
from mpo_jax.experiments.world import World, texts
from mpo_jax.training.optim import OptimConfig
from mpo_jax.types import Params, Reads, RowLoss, Scores, Want

BATCH, UPDATES, LEARNING_RATE = 32, 700, 5e-3


@dataclasses.dataclass
class Imitate:
    """The loss is -(log p(first answer) + log p(second answer)) / 2: both are texts to imitate, and neither is better."""

    @property
    def policy_reads(self) -> Reads:
        return Reads(target=Want.LOGP)

    @property
    def reference_reads(self) -> Reads:
        return Reads()

    def __call__(self, policy: Scores, reference: Scores) -> RowLoss:
        """Per row, f32 (B,), nats."""
        pair = policy.target
        assert pair is not None
        return RowLoss(-(pair.chosen.sum_logp_B + pair.rejected.sum_logp_B) / 2, metrics_B={}, by_language_B={})


LEARN = make_train(Imitate(), OptimConfig())


def base_of(seed: int, folder: Path, updates: int = UPDATES) -> tuple[World, Params]:
    """The world of a seed and its base model, which is kept in `folder` for the next run, under a name that changes with
    the code."""
    of = World(seed)
    path = folder / f"base_{_code(updates)}_{seed}.npz"
    fresh = MODEL.init(jax.random.key(seed))
    leaves, tree = jax.tree.flatten(fresh)
    if path.is_file():
        with np.load(path) as kept:
            return of, jax.tree.unflatten(tree, [jnp.asarray(kept[str(i)]) for i in range(len(leaves))])
    loss = Imitate()
    examples = texts(of, seed, BATCH * updates)
    order = np.arange(len(examples)).reshape(updates, BATCH).tolist()
    params = LEARN(fresh, jnp.float32(LEARNING_RATE), stacked(examples, order, loss.policy_reads, loss.reference_reads))
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    arrays = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(params))}
    np.savez(partial, allow_pickle=False, **arrays)
    partial.replace(path)  # a run that was stopped leaves no half of one
    return of, params


@functools.cache
def _code(updates: int) -> str:
    """What decides a base model: all code that runs for it, of this package and of the libraries, and how long it learns."""
    versions = [library.__version__ for library in (jax, np, optax)]
    return hashlib.sha256(f"{digest(closure(__name__))} {versions} {updates}".encode()).hexdigest()[:8]
