"""Which optimiser, and which learning rate at step k?"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mpo_jax.errors import InputError, check_choice
from mpo_jax.models.parameters import LAYERS, TOP
from mpo_jax.types import DTYPES, Number, Params

Schedule = Callable[[Any], Any]  # update number -> learning rate, as a share of the peak


@dataclasses.dataclass
class OptimConfig:
    """AdamW with clipping by global gradient norm, as in arXiv:2505.16869, appendix (its settings are the defaults).

    `warmup`: the share of updates during which the learning rate rises. `decay`: how it falls to 0 after that, 'cosine' or
    'linear'; 'constant' keeps it. `weight_decay` does not apply to norm scales and biases.

    Memory: `kind` 'adamw' has two moments per weight; 'adafactor' factors the second one (see `_adafactor`). `moments_dtype` is
    the dtype of the moments that are as large as the weights; a second moment in bfloat16 is rounded stochastically (see
    `_second_in_bfloat16`). `offload` keeps the moments in host memory while the gradient is computed; for the update itself they
    are moved to the devices.
    """

    kind: str = "adamw"
    peak_lr: float = 6e-7
    warmup: float = 0.1
    decay: str = "cosine"
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    moments_dtype: str = "float32"
    offload: bool = False

    def __post_init__(self) -> None:
        check_choice("optim.kind", self.kind, ("adamw", "adafactor"))
        check_choice("optim.decay", self.decay, ("cosine", "linear", "constant"))
        check_choice("optim.moments_dtype", self.moments_dtype, DTYPES)
        if not 0 <= self.warmup < 1:
            raise InputError(f"optim.warmup={self.warmup} must be a share of the updates, from 0 up to, but not including, 1.")
        if not (0 < self.peak_lr < math.inf and self.clip_norm > 0):
            raise InputError(f"optim.peak_lr={self.peak_lr} and optim.clip_norm={self.clip_norm} must both be numbers above 0.")


SMALLEST_SQUARE = 1e-30  # Adafactor adds it to squared gradients, so that no second moment is 0


class Optimizer(NamedTuple):
    transform: optax.GradientTransformation  # gradients -> the direction, for a learning rate of 1
    schedule: Schedule
    offload: bool = False  # whether the moments stay in host memory between updates

    def update(self, params: Params, grads: Params, opt_state: Any, done: Any, peak_lr: Number) -> tuple[Params, Any, Any]:
        """(parameters, moments, learning rate) of the update after `done` updates."""
        learning_rate = peak_lr * self.schedule(done)
        direction, opt_state = self.transform.update(grads, opt_state, params)
        return jax.tree.map(lambda p, d: p + -learning_rate * d, params, direction), opt_state, learning_rate


def make_schedule(config: OptimConfig, updates: int) -> Schedule:
    """Learning rate of update k as a share of the peak: rising as k/W over the first W = ceil(warmup * updates), so the very
    first one is 0, then (1 + cos(pi (k - W) / (updates - W))) / 2, or its linear or constant counterpart."""
    W = math.ceil(config.warmup * updates)
    rest = max(updates - W, 1)
    after = {
        "cosine": optax.schedules.cosine_decay_schedule(1.0, rest),
        "linear": optax.schedules.linear_schedule(1.0, 0.0, rest),
        "constant": optax.schedules.constant_schedule(1.0),
    }[config.decay]
    shape = optax.schedules.join_schedules([optax.schedules.linear_schedule(0.0, 1.0, W), after], [W]) if W else after
    return lambda k: jnp.asarray(shape(k), jnp.float32)


def decays(params: Params) -> Params:
    """True for the weights that decay: matrices, neither norm scales nor biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not path[-1].key.endswith(("norm", "bias")), params)


def make_optimizer(config: OptimConfig, updates: int) -> Optimizer:
    scale = {"adamw": _adam, "adafactor": _adafactor}[config.kind]
    decayed = optax.add_decayed_weights(config.weight_decay, mask=decays)
    transform = optax.chain(_clip_by_global_norm(config.clip_norm), scale(config), decayed)
    return Optimizer(transform, make_schedule(config, updates), config.offload)


def _clip_by_global_norm(most: float) -> optax.GradientTransformation:
    """As `optax.clip_by_global_norm`, by one product. optax divides and selects, for which XLA keeps another array of each
    gradient."""

    def clip(grads: Params) -> Params:
        share = jnp.minimum(1.0, most / optax.tree.norm(grads))
        return jax.tree.map(lambda g: g * share, grads)

    return optax.stateless(lambda grads, _: clip(grads))


def _adam(config: OptimConfig) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps, mu_dtype=jnp.dtype(config.moments_dtype))
    return _second_in_bfloat16(adam) if config.moments_dtype == "bfloat16" else adam


def _second_in_bfloat16(adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """Adam that stores its second moment in bfloat16 between updates, and computes with it in float32.

    With b2 = 0.999 an update changes it by about 0.1 %, but neighbouring bfloat16 numbers are 0.4 to 0.8 % apart: rounded to the
    nearest it would never move. With stochastic rounding it follows the float32 moment on average. The random draws depend only
    on the number of the update, so a resumed run draws the same.
    """

    def init(params: Params) -> Any:
        state: Any = adam.init(params)
        return state._replace(nu=jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.nu))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        wide = state._replace(nu=jax.tree.map(lambda x: x.astype(jnp.float32), state.nu))
        updates, after = adam.update(updates, wide, params)
        assert isinstance(after, optax.ScaleByAdamState)
        leaves, tree = jax.tree.flatten(after.nu)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), after.count), len(leaves))
        return updates, after._replace(nu=tree.unflatten(map(round_at_random, leaves, keys)))

    return optax.GradientTransformation(init, update)


def round_at_random(x: jax.Array, key: jax.Array) -> jax.Array:
    """Stochastic rounding: finite float32 -> one of its two bfloat16 neighbours, with mean `x` over the draws."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)  # bfloat16 is the upper half of these
    drawn = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(((bits + drawn) >> 16).astype(jnp.uint16), jnp.bfloat16)


def _adafactor(config: OptimConfig) -> optax.GradientTransformation:
    """Adafactor with a first moment (Shazeer and Stern, arXiv:1804.04235; Zhai et al., arXiv:2106.04560, section 3.4).

    The second moment of a matrix with two sides of at least 128 is the outer product of its row and column means; that of any
    other weight is Adam's. An update whose root mean square over a weight is above 1 is scaled down to 1; each layer's weights
    count separately. Learning rates mean what they do for Adam: they are not relative to the weights. `eps` is added to the root,
    as in Adam.
    """

    def decay(done: Any, b2: Any) -> jax.Array:
        """The decay with which a running mean equals Adam's bias-corrected moment."""
        return b2 * jnp.expm1(done * jnp.log(b2)) / jnp.expm1((done + 1) * jnp.log(b2))

    least = max(config.eps**2, SMALLEST_SQUARE)
    clip = optax.clip_by_block_rms(1.0)
    return optax.chain(
        _factored(optax.scale_by_factored_rms(decay_rate=config.b2, decay_rate_fn=decay, epsilon=least)),
        optax.stateless(lambda updates, _: _layer_by_layer(lambda x: clip.update(x, clip.init(x))[0], updates)),
        optax.ema(config.b1, accumulator_dtype=jnp.dtype(config.moments_dtype)),
    )


def _factored(scale: optax.GradientTransformation) -> optax.GradientTransformation:
    """`scale` (`optax.scale_by_factored_rms`), applied layer by layer: rows and columns are those of a layer, not of the
    stack."""

    def init(params: Params) -> optax.FactoredState:
        def one(param: jax.Array) -> tuple[Any, ...]:
            begun: Any = scale.init(param)
            return begun.v_row, begun.v_col, begun.v

        begun = _layer_by_layer(one, params)
        return optax.FactoredState(jnp.zeros([], jnp.int32), *_split(begun, params, 3))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, optax.FactoredState]:
        def one(grad: jax.Array, v_row: jax.Array, v_col: jax.Array, v: jax.Array, param: jax.Array) -> tuple[Any, ...]:
            scaled, after = scale.update(grad, optax.FactoredState(state.count, v_row, v_col, v), param)
            assert isinstance(after, optax.FactoredState)
            return scaled, after.v_row, after.v_col, after.v

        done = _layer_by_layer(one, updates, state.v_row, state.v_col, state.v, params)
        scaled, *moments = _split(done, params, 4)
        return scaled, optax.FactoredState(optax.safe_increment(state.count), *moments)

    return optax.GradientTransformation(init, update)


def _layer_by_layer(do: Callable[..., Any], *trees: Params) -> Any:
    """Applies `do` to each weight, and to each layer's part of the stacked weights, along their first axis."""

    def one(path: Any, *weights: jax.Array) -> Any:
        stacked = any(getattr(key, "key", None) in (LAYERS, TOP) for key in path)
        return (jax.vmap(do) if stacked else do)(*weights)

    return jax.tree_util.tree_map_with_path(one, *trees)


def _split(tree: Any, like: Params, count: int) -> list[Any]:
    """A tree whose leaves are tuples, in the structure of `like` -> one tree per entry of the tuples."""
    return [jax.tree.map(lambda _, parts: parts[i], like, tree) for i in range(count)]  # noqa: B023
