"""What is one decoder layer made of? Norms, RoPE, attention projections, gated MLP, embedding look-up.

Written as if for one device: parameters name their logical axes where they are declared, intermediates where they are
constrained, and only `sharding.py` knows what that means on a mesh. The computation is in the dtype of the input; norms and
rotary embeddings are computed in float32 and cast back.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from mpo_jax.devices.sharding import LogicalAxes, constrain, mesh_axes, shards, spec
from mpo_jax.models.parameters import Adapted
from mpo_jax.models.taps import Tap, no_tap
from mpo_jax.types import Array

Activation = Literal["silu", "gelu_tanh"]
QueryKeyNorm = Literal["head", "all"]  # over each head by itself, or over all heads of a token together
Normalise = Callable[[Array, Array], Array]  # states, scale -> states
ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}

_normal = nnx.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's scaling of the slow rotary frequencies; the fields are the keys of `rope_scaling` in its config.json."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def scaled(self, frequency: np.ndarray) -> np.ndarray:
        """Leaves wavelengths below original / high_freq_factor alone, divides the frequencies of those above
        original / low_freq_factor by `factor`, and interpolates between."""
        turns = self.original_max_position_embeddings * frequency / (2 * math.pi)
        keep = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        keep = np.clip(keep, 0.0, 1.0)
        return frequency * (keep + (1 - keep) / self.factor)


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """All rotary frequencies are divided by `factor` (S. Chen et al., arXiv:2306.15595)."""

    factor: float

    def scaled(self, frequency: np.ndarray) -> np.ndarray:
        return frequency / self.factor


@dataclasses.dataclass(frozen=True)
class Rope:
    """The base of a rotary embedding, and the scaling of its frequencies."""

    theta: float
    scaling: Llama3Scaling | LinearScaling | None = None


def weight(rngs: nnx.Rngs, shape: tuple[int, ...], axes: LogicalAxes) -> nnx.Param:
    """Declares a matrix, initialised from a normal distribution of standard deviation 0.02."""
    return nnx.Param(_normal(rngs.params(), shape, jnp.float32), out_sharding=axes)


def norm_scale(shape: tuple[int, ...], offset: int, axes: LogicalAxes = ("norm",)) -> nnx.Param:
    """Declares the scale of a norm, initialised so that offset + scale = 1."""
    return nnx.Param(jnp.full(shape, 1.0 - offset, jnp.float32), out_sharding=axes)


def rms_norm(x: Array, scale: Array, *, eps: float, offset: int) -> Array:
    """x / rms(x) * (offset + scale), in float32, returned in the dtype of x. The mean is over the last axes of x, those of the
    scale: [S, T, D] and [D], or heads [S, T, N, H] and [H] or [N, H]."""
    x32 = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=_last(scale), keepdims=True) + eps)
    factor = jnp.expand_dims(offset + scale.astype(jnp.float32), tuple(range(x.ndim - scale.ndim)))
    return (x32 * inverse * factor).astype(x.dtype)


def layer_norm(x: Array, scale: Array, *, eps: float, offset: int) -> Array:
    """`rms_norm` of x minus its mean: a LayerNorm without bias."""
    x32 = x.astype(jnp.float32)
    return rms_norm(x32 - jnp.mean(x32, axis=_last(scale), keepdims=True), scale, eps=eps, offset=offset).astype(x.dtype)


def _last(scale: Array) -> tuple[int, ...]:
    return tuple(range(-scale.ndim, 0))


NORMS: dict[str, Callable[..., Array]] = {"rms": rms_norm, "layer": layer_norm}


def rope_frequencies(head_dim: int, rope: Rope) -> np.ndarray:
    """Radians per position of the head_dim / 2 rotations, float32."""
    frequency = rope.theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    return (frequency if rope.scaling is None else rope.scaling.scaled(frequency)).astype(np.float32)


def rope_angles(position_ST: Array, frequency: np.ndarray) -> Array:
    """Angle of every rotation at every position, radians, float32 [S, T, H / 2]."""
    return position_ST.astype(jnp.float32)[..., None] * jnp.asarray(frequency)[None, None]


def rotate(x_STNH: Array, angle_STR: Array, *, interleaved: bool = False) -> Array:
    """Rotary embedding of R = H / 2 rotations: dimension i turns with dimension i + H / 2, or where they are `interleaved`
    dimension 2 i with 2 i + 1, as in J. Su et al., arXiv:2104.09864."""
    cos_ST1R, sin_ST1R = jnp.cos(angle_STR)[:, :, None], jnp.sin(angle_STR)[:, :, None]
    x32_STNH = x_STNH.astype(jnp.float32)
    if interleaved:
        a_STNR, b_STNR = (x32_STNH.reshape(*x_STNH.shape[:-1], -1, 2)[..., i] for i in range(2))
    else:
        a_STNR, b_STNR = jnp.split(x32_STNH, 2, axis=-1)
    turned = [a_STNR * cos_ST1R - b_STNR * sin_ST1R, b_STNR * cos_ST1R + a_STNR * sin_ST1R]
    turned_STNH = jnp.stack(turned, axis=-1).reshape(x_STNH.shape) if interleaved else jnp.concatenate(turned, axis=-1)
    return turned_STNH.astype(x_STNH.dtype)


def embed(table_VD: Array, tokens_ST: Array) -> Array:
    """Rows of the embedding table, [S, T, D].

    On a mesh each device looks up its part of the width, and of the vocabulary, for the tokens of all devices that share the
    table; then they exchange the parts. So no device ever holds the whole table or its whole gradient.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or shards(mesh, "vocab") * shards(mesh, "embed") == 1:
        return constrain(table_VD[tokens_ST], "batch", None, None)
    vocab, width = mesh_axes(mesh, "vocab"), mesh_axes(mesh, "embed")
    tokens_differ = bool(set(width) & set(mesh_axes(mesh, "batch")))  # between the devices that share the table's width

    def on_device(table_VD: Array, tokens_ST: Array) -> Array:
        if tokens_differ:
            tokens_ST = jax.lax.all_gather(tokens_ST, width, axis=0, tiled=True)
        entry_ST = tokens_ST - jax.lax.axis_index(vocab) * len(table_VD)
        mine_ST = (entry_ST >= 0) & (entry_ST < len(table_VD))
        part_STD = jnp.where(mine_ST[..., None], table_VD[jnp.where(mine_ST, entry_ST, 0)], 0)
        part_STD = jax.lax.psum(part_STD, vocab)
        if tokens_differ:
            return jax.lax.all_to_all(part_STD, width, split_axis=0, concat_axis=2, tiled=True)
        return jax.lax.all_gather(part_STD, width, axis=2, tiled=True)

    inputs = (spec(("vocab", "embed")), spec(("batch", None)))
    return jax.shard_map(on_device, in_specs=inputs, out_specs=spec(("batch", None, None)), check_vma=False)(table_VD, tokens_ST)


def inputs(axes: LogicalAxes) -> int:
    """How many axes of a projection are its inputs; the rest are its outputs. The model's width is on one side of each."""
    return 1 if axes[0] == "embed" else len(axes) - 1


def product(equation: str, x: Array, w: Array | Adapted) -> Array:
    """The einsum of states and a weight, such as "STD,DNH->STNH", with the weight's adapter where it has one.

    Where a row has one token, as in decoding, this is the product of two matrices with the weight on the left: a TPU then changes
    the layout of none that is stored as [out, in], and some CPUs multiply twice as fast.
    """
    if isinstance(w, Adapted):
        return product(equation, x, w.weight) + low_rank(equation, x, w)
    if x.shape[1] > 1:
        return jnp.einsum(equation, x, w)
    of_x, of_w, out = equation.replace("->", ",").split(",")
    size = dict(zip(of_x + of_w, x.shape + w.shape, strict=True))
    summed = [axis for axis in of_w if axis in of_x]
    free_w, free_x = ([axis for axis in axes if axis not in summed] for axes in (of_w, of_x))

    def matrix(y: Array, axes: str, free: list[str]) -> Array:
        return y.transpose([axes.index(axis) for axis in free + summed]).reshape(math.prod(size[axis] for axis in free), -1)

    found = lax.dot_general(matrix(w, of_w, free_w), matrix(x, of_x, free_x), (((1,), (1,)), ((), ())))
    axes = free_w + free_x
    return found.reshape([size[axis] for axis in axes]).transpose([axes.index(axis) for axis in out])


def low_rank(equation: str, x: Array, w: Adapted) -> Array:
    """scale (x A) B, for the same equation."""
    of_x, of_w, out = equation.replace("->", ",").split(",")
    summed = "".join(axis for axis in of_w if axis in of_x)
    free_x, free_w = of_x.translate(_without(summed)), of_w.translate(_without(summed))
    narrow = jnp.einsum(f"{of_x},{summed}r->{free_x}r", x, w.a)
    return jnp.einsum(f"{free_x}r,r{free_w}->{out}", narrow, w.b) * jnp.asarray(w.scale, x.dtype)


def _without(axes: str) -> dict[int, None]:
    return dict.fromkeys(map(ord, axes))


def widen(x_STD: Array, w_DF: Array | Adapted) -> Array:
    """x W -> [S, T, F], with the weight's adapter where it has one."""
    if isinstance(w_DF, Adapted):
        return _widen(x_STD, w_DF.weight) + low_rank("STD,DF->STF", x_STD, w_DF)
    return _widen(x_STD, w_DF)


@jax.custom_vjp
def _widen(x_STD: Array, w_DF: Array) -> Array:
    """Like an einsum. Its gradient of W is the product of x and the result's gradient in this order; JAX has
    them the other way round, for which a CPU has to transpose the wider of the two."""
    return product("STD,DF->STF", x_STD, w_DF)


def _widen_fwd(x_STD: Array, w_DF: Array) -> tuple[Array, tuple[Array, Array]]:
    return _widen(x_STD, w_DF), (x_STD, w_DF)


def _widen_bwd(saved: tuple[Array, Array], grad_STF: Array) -> tuple[Array, Array]:
    x_STD, w_DF = saved
    return jnp.einsum("STF,DF->STD", grad_STF, w_DF), jnp.einsum("STD,STF->DF", x_STD, grad_STF)


_widen.defvjp(_widen_fwd, _widen_bwd)


class Attention(nnx.Module):
    """Query, key, value and output projections of grouped-query attention; `qk_norm` normalises queries and keys before they are
    rotated."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        bias: bool,
        qk_norm: QueryKeyNorm | None,
        norm_offset: int,
        interleaved: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.q = weight(rngs, (width, heads, head_dim), ("embed", "heads", "head_dim"))
        self.k = weight(rngs, (width, kv_heads, head_dim), ("embed", "kv_heads", "head_dim"))
        self.v = weight(rngs, (width, kv_heads, head_dim), ("embed", "kv_heads", "head_dim"))
        self.o = weight(rngs, (heads, head_dim, width), ("heads", "head_dim", "embed"))
        self.bias = bias
        if bias:
            self.q_bias = nnx.Param(jnp.zeros((heads, head_dim)), out_sharding=("heads", "head_dim"))
            self.k_bias = nnx.Param(jnp.zeros((kv_heads, head_dim)), out_sharding=("kv_heads", "head_dim"))
            self.v_bias = nnx.Param(jnp.zeros((kv_heads, head_dim)), out_sharding=("kv_heads", "head_dim"))
        self.qk_norm, self.interleaved = qk_norm, interleaved
        if qk_norm == "head":
            self.q_norm, self.k_norm = (norm_scale((head_dim,), norm_offset, ("head_dim",)) for _ in range(2))
        elif qk_norm == "all":
            self.q_norm = norm_scale((heads, head_dim), norm_offset, ("heads", "head_dim"))
            self.k_norm = norm_scale((kv_heads, head_dim), norm_offset, ("kv_heads", "head_dim"))

    def project(self, x_STD: Array, angle_STR: Array | None, norm: Normalise) -> tuple[Array, Array, Array]:
        """States -> queries [S, T, N, H], keys and values [S, T, K, H]; queries and keys are rotated if there are angles."""
        with jax.named_scope("qkv"):
            q_STNH = product("STD,DNH->STNH", x_STD, self.q[...])
            k_STKH = product("STD,DKH->STKH", x_STD, self.k[...])
            v_STKH = product("STD,DKH->STKH", x_STD, self.v[...])
            if self.bias:
                q_STNH += self.q_bias[...][None, None]
                k_STKH += self.k_bias[...][None, None]
                v_STKH += self.v_bias[...][None, None]
            q_STNH = constrain(q_STNH, "batch", None, "heads", None)
            k_STKH = constrain(k_STKH, "batch", None, "kv_heads", None)
            v_STKH = constrain(v_STKH, "batch", None, "kv_heads", None)
        if self.qk_norm is not None:
            with jax.named_scope("qk_norm"):
                q_STNH, k_STKH = norm(q_STNH, self.q_norm[...]), norm(k_STKH, self.k_norm[...])
        if angle_STR is None:
            return q_STNH, k_STKH, v_STKH
        with jax.named_scope("rope"):
            turn = functools.partial(rotate, angle_STR=angle_STR, interleaved=self.interleaved)
            return turn(q_STNH), turn(k_STKH), v_STKH

    def output(self, seen_STNH: Array) -> Array:
        with jax.named_scope("output"):
            return constrain(product("STNH,NHD->STD", seen_STNH, self.o[...]), "batch", None, None)


class Mlp(nnx.Module):
    """down(activation(gate(x)) * up(x))"""

    def __init__(self, *, width: int, ffn: int, activation: Activation, rngs: nnx.Rngs) -> None:
        self.gate = weight(rngs, (width, ffn), ("embed", "mlp"))
        self.up = weight(rngs, (width, ffn), ("embed", "mlp"))
        self.down = weight(rngs, (ffn, width), ("mlp", "embed"))
        self.activation = ACTIVATIONS[activation]

    def __call__(self, x_STD: Array, tap: Tap = no_tap) -> Array:
        with jax.named_scope("mlp"):
            gate_STF = constrain(widen(x_STD, self.gate[...]), "batch", None, "mlp")
            up_STF = constrain(widen(x_STD, self.up[...]), "batch", None, "mlp")
            for site, y in (("mlp_input", x_STD), ("gate", gate_STF), ("up", up_STF)):
                tap(site, y)
            hidden_STF = self.activation(gate_STF) * up_STF
            return constrain(product("STF,FD->STD", hidden_STF, self.down[...]), "batch", None, None)
