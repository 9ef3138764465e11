"""What is a low-rank adapter of a model? Two factors for each projection that it adapts, beside weights that stay as they are.

The tree of an adapter is that of the model's layers, with {"a": A [L, *in, r], "b": B [L, r, *out]} in place of each adapted
weight; `parameters.Adapted` has the equation. One of the factors starts at zero, so that at first nothing has changed.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from mpo_jax.devices.sharding import LogicalAxes, named
from mpo_jax.errors import InputError, check_choice
from mpo_jax.models.decoder import Model
from mpo_jax.models.layers import inputs
from mpo_jax.models.parameters import Adapted
from mpo_jax.types import Array, Params

# The projections that can be adapted, by their names in PEFT's `target_modules`.
PROJECTIONS = {
    "q_proj": ("attention", "q"),
    "k_proj": ("attention", "k"),
    "v_proj": ("attention", "v"),
    "o_proj": ("attention", "o"),
    "gate_proj": ("mlp", "gate"),
    "up_proj": ("mlp", "up"),
    "down_proj": ("mlp", "down"),
}


@dataclasses.dataclass
class LoraConfig:
    """Low-rank adapters in place of full fine-tuning (arXiv:2106.09685). `rank` 0 = none, all parameters are trained.

    `alpha`: the adapter counts alpha / rank times, or with `rslora` alpha / sqrt(rank) times (arXiv:2312.03732). `targets`: names
    from `PROJECTIONS`, separated by commas, or 'all'. `zero`: the factor that starts at zero, 'a' or 'b'; the other one is drawn
    uniformly from +-1 / sqrt(number of its inputs), as PEFT does. `start`: the folder of an adapter to start from instead, which
    says the other settings (`checkpoints.peft_folder.with_start`)."""

    rank: int = 0
    alpha: float = 32.0
    targets: str = "all"
    rslora: bool = False
    zero: str = "b"
    start: str | None = None

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise InputError(f"lora.rank={self.rank} must be above 0, or 0 for no adapter.")
        if not 0 < self.alpha < math.inf:
            raise InputError(f"lora.alpha={self.alpha} must be a number above 0.")
        check_choice("lora.zero", self.zero, ("a", "b"))
        if self.start is not None and self.zero != "b":
            raise InputError(
                f"lora.zero='{self.zero}' has no effect with lora.start='{self.start}', whose factors are kept: leave one out."
            )
        for name in self.names:
            check_choice("lora.targets", name, tuple(PROJECTIONS))

    @property
    def names(self) -> tuple[str, ...]:
        """The adapted projections, in the order of `PROJECTIONS`."""
        given = [name.strip() for name in self.targets.split(",")]
        return tuple(PROJECTIONS) if given == ["all"] else tuple(sorted(given, key=[*PROJECTIONS, *given].index))

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclasses.dataclass(frozen=True)
class Factors:
    """The axes and shapes of A and B of one projection, stacked over the layers."""

    name: str
    path: tuple[str, str]
    a_axes: LogicalAxes
    a_shape: tuple[int, ...]
    b_axes: LogicalAxes
    b_shape: tuple[int, ...]


def factors(model: Model, config: LoraConfig) -> tuple[Factors, ...]:
    """Errors: a rank that is no lower than a projection's own."""
    found = []
    for name in config.names:
        group, weight = path = PROJECTIONS[name]
        (_, *axes), (layers, *shape) = model.axes()["layers"][group][weight], model.abstract()["layers"][group][weight].shape
        n = inputs(tuple(axes))
        if config.rank >= (full := min(math.prod(shape[:n]), math.prod(shape[n:]))):
            raise InputError(
                f"lora.rank={config.rank} is no low rank for {name}, whose weights have rank {full} at most: choose a lower one."
            )
        a, b = ("layers", *axes[:n], None), ("layers", None, *axes[n:])
        found.append(Factors(name, path, a, (layers, *shape[:n], config.rank), b, (layers, config.rank, *shape[n:])))
    return tuple(found)


def abstract_adapter(
    model: Model, config: LoraConfig, mesh: Mesh | AbstractMesh | None = None, dtype: Any = jnp.float32
) -> Params:
    """The adapter's shapes, with their shardings where a mesh is given."""

    def one(axes: LogicalAxes, shape: tuple[int, ...], name: str) -> jax.ShapeDtypeStruct:
        place = None if mesh is None else named(mesh, axes, shape, name)
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)

    found = factors(model, config)
    return _tree({f.path: {"a": one(f.a_axes, f.a_shape, f.name), "b": one(f.b_axes, f.b_shape, f.name)} for f in found})


def init_adapter(model: Model, config: LoraConfig, seed: int, mesh: Mesh) -> Params:
    """A fresh adapter in float32 on the mesh; its values depend on the seed alone."""
    abstract = abstract_adapter(model, config, mesh)

    def draw(key: Array) -> Params:
        drawn = {}
        for i, f in enumerate(factors(model, config)):
            shape, inputs = (f.a_shape, math.prod(f.a_shape[1:-1])) if config.zero == "b" else (f.b_shape, config.rank)
            bound = 1 / math.sqrt(inputs)
            values = jax.random.uniform(jax.random.fold_in(key, i), shape, jnp.float32, -bound, bound)
            drawn[f.path] = {"a": jnp.zeros(f.a_shape), "b": jnp.zeros(f.b_shape)} | {"ab".replace(config.zero, ""): values}
        return _tree(drawn)

    return jax.jit(draw, out_shardings=jax.tree.map(lambda x: x.sharding, abstract))(jax.random.key(seed))


def prepared(base: Params, config: LoraConfig) -> Params:
    """The base's weights, ready to be joined with an adapter; arrays or their shapes."""
    layers = {group: dict(weights) if isinstance(weights, dict) else weights for group, weights in base["layers"].items()}
    for group, weight in (PROJECTIONS[name] for name in config.names):
        layers[group][weight] = Adapted(layers[group][weight], config.scale)
    return {**base, "layers": layers}


def merged(params: Params) -> Params:
    """Plain weights that compute what adapted ones do: W + scale A B, in float32 and then in the dtype of W."""
    is_adapted = lambda x: isinstance(x, Adapted)  # noqa: E731
    return jax.tree.map(lambda x: _merge(x) if is_adapted(x) else x, params, is_leaf=is_adapted)


def changes(adapter: Params, config: LoraConfig) -> Params:
    """What an adapter adds to the weights: an `Adapted` without a weight in place of each pair of factors."""
    layers = {
        group: {name: Adapted(None, config.scale, **factors) for name, factors in weights.items()}
        for group, weights in adapter["layers"].items()
    }
    return {"layers": layers}


def change(x: Adapted, layer: int) -> np.ndarray:
    """scale A B of one layer, in float32 and in the shape of W. The factors are on the host."""
    a, b = (np.asarray(factor[layer], np.float32) for factor in (x.a, x.b))
    r = len(b)
    return x.scale * (a.reshape(-1, r) @ b.reshape(r, -1)).reshape(*a.shape[:-1], *b.shape[1:])


@jax.jit
def _merge(x: Adapted) -> Array:
    L, r = x.b.shape[:2]
    product = jnp.einsum("lir,lro->lio", x.a.reshape(L, -1, r).astype(jnp.float32), x.b.reshape(L, r, -1).astype(jnp.float32))
    return (x.weight.astype(jnp.float32) + x.scale * product.reshape(x.weight.shape)).astype(x.weight.dtype)


def _tree(leaves: dict[tuple[str, str], Any]) -> Params:
    layers: dict[str, dict[str, Any]] = {}
    for (group, weight), value in leaves.items():
        layers.setdefault(group, {})[weight] = value
    return {"layers": layers}
