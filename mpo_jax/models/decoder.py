"""What does the model compute? The one decoder of every family: packed tokens -> final hidden states.

NNX modules declare the parameters and their logical axes; after that parameters are plain nested dicts, and `Model` is a set of
pure functions of them: `lax.scan` over stacked layers under `jax.checkpoint`. Families differ by the data in `DecoderConfig`.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from mpo_jax.devices import sharding
from mpo_jax.errors import InputError
from mpo_jax.models import layers
from mpo_jax.models.attention.api import SAVED_AS, attention
from mpo_jax.models.layers import Activation, Llama3Scaling
from mpo_jax.models.parameters import LAYERS, TOP
from mpo_jax.models.taps import Readers, Tap, no_tap, tap_into
from mpo_jax.types import Array, Packed, Params, Places

Attend = Callable[[Array, Array, Array], Array]  # rotated q_STNH, rotated k_STKH, v_STKH -> seen_STNH; it may hold a cache

_policies = jax.checkpoint_policies
# What the backward pass keeps of a layer beside its input; the rest is recomputed.
REMAT: dict[str, Callable[..., Any]] = {
    "none": _policies.everything_saveable,
    "dots": _policies.dots_with_no_batch_dims_saveable,
    "attention": _policies.save_only_these_names(SAVED_AS),
    "offload": _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=[SAVED_AS], offload_src="device", offload_dst="pinned_host"
    ),
    "full": _policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Everything in which the families' decoders differ, as named fields."""

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    norm_eps: float
    rope_theta: float
    query_scale: float  # attention scores are q . k times this
    layer_windows: tuple[int | None, ...]  # one entry a layer; None = sees the whole segment
    tied: bool  # the unembedding is the embedding
    norm_offset: int = 0  # RMSNorm multiplies by norm_offset + scale
    rope_scaling: Llama3Scaling | None = None
    qkv_bias: bool = False
    attn_softcap: float | None = None
    final_softcap: float | None = None  # for whoever computes logits
    post_norms: bool = False  # a second norm after attention and after the MLP, before the residual sum
    embed_scale: float | None = None
    activation: Activation = "silu"


class Layer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); with `post_norms` each branch is normed once more."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        c, offset = config, config.norm_offset
        self.config = config
        self.attention = layers.Attention(
            width=c.hidden_size, heads=c.heads, kv_heads=c.kv_heads, head_dim=c.head_dim, bias=c.qkv_bias, rngs=rngs
        )
        self.mlp = layers.Mlp(width=c.hidden_size, ffn=c.ffn, activation=c.activation, rngs=rngs)
        self.attention_norm = layers.norm_scale(c.hidden_size, offset)
        self.mlp_norm = layers.norm_scale(c.hidden_size, offset)
        if c.post_norms:
            self.attention_post_norm = layers.norm_scale(c.hidden_size, offset)
            self.mlp_post_norm = layers.norm_scale(c.hidden_size, offset)

    def __call__(self, x_STD: Array, angle_STR: Array, attend: Attend, tap: Tap = no_tap) -> Array:
        norm = functools.partial(layers.rms_norm, eps=self.config.norm_eps, offset=self.config.norm_offset)
        q_STNH, k_STKH, v_STKH = self.attention.project(norm(x_STD, self.attention_norm[...]), angle_STR)
        branch_STD = self.attention.output(attend(q_STNH, k_STKH, v_STKH))
        if self.config.post_norms:
            branch_STD = norm(branch_STD, self.attention_post_norm[...])
        x_STD += branch_STD
        branch_STD = self.mlp(norm(x_STD, self.mlp_norm[...]), tap)
        if self.config.post_norms:
            branch_STD = norm(branch_STD, self.mlp_post_norm[...])
        x_STD += branch_STD
        tap("residual", x_STD)
        return x_STD


class Decoder(nnx.Module):
    """Declares the parameters; the layers are stacked along a leading axis "layers"."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        table, axes = (config.vocab_size, config.hidden_size), ("vocab", "embed")
        stack = nnx.vmap(Layer, in_axes=(None, 0), out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
        self.embedding = layers.weight(rngs, table, axes)
        self.layers = nnx.split_rngs(splits=config.layers)(stack)(config, rngs)
        self.final_norm = layers.norm_scale(config.hidden_size, config.norm_offset)
        if not config.tied:
            self.unembedding = layers.weight(rngs, table, axes)


@functools.cache
def _declare(config: DecoderConfig) -> tuple[Any, Any]:
    """The definition of one layer, and the abstract parameters with their axes."""
    # NNX would take the logical axis names for axes of the current mesh; here `sharding.py` translates them.
    with nnx.use_eager_sharding(False), jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        layer = nnx.graphdef(nnx.eval_shape(lambda: Layer(config, nnx.Rngs(0))))
        return layer, nnx.state(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))), nnx.Param)


def dotted(path: Any) -> str:
    """The name of a parameter from its path in the tree: "layers.attention.q"."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def period(windows: tuple[int | None, ...]) -> int:
    """The smallest number of layers after which the windows repeat; it divides the number of layers."""
    return next(p for p in range(1, len(windows) + 1) if len(windows) % p == 0 and windows == windows[:p] * (len(windows) // p))


@dataclasses.dataclass(frozen=True)
class Model:
    """A decoder as pure functions of its parameters, a tree of nested dicts.

    `remat` names an entry of `REMAT`: what the backward pass keeps of each layer.
    """

    config: DecoderConfig
    remat: str = "full"

    def __post_init__(self) -> None:
        if self.remat not in REMAT:
            raise InputError(f"remat={self.remat!r} is not a rematerialisation policy: write one of {', '.join(REMAT)}.")

    def axes(self) -> Params:
        """The logical axes of every parameter: the tree of the parameters with tuples of names as leaves."""
        state = _declare(self.config)[1]
        is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
        return nnx.to_pure_dict(jax.tree.map(lambda p: p.replace(p.get_metadata("out_sharding")), state, is_leaf=is_variable))

    def abstract(self, mesh: Mesh | AbstractMesh | None = None, dtype: Any = jnp.float32) -> Params:
        """The parameters as `jax.ShapeDtypeStruct`s, with their shardings when a mesh is given.

        Errors: a dimension that its mesh axis does not divide, naming the parameter.
        """

        def one(path: Any, leaf: jax.ShapeDtypeStruct, axes: sharding.LogicalAxes) -> jax.ShapeDtypeStruct:
            place = sharding.named(mesh, axes, leaf.shape, dotted(path)) if mesh is not None else None
            return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=place)

        return jax.tree_util.tree_map_with_path(one, nnx.to_pure_dict(_declare(self.config)[1]), self.axes())

    def init(self, key: Array, dtype: Any = jnp.float32) -> Params:
        """Random parameters: normal with standard deviation 0.02, norms at identity, biases 0."""

        @jax.jit
        def draw(key: Array) -> Params:
            with nnx.use_eager_sharding(False):
                state = nnx.to_pure_dict(nnx.state(Decoder(self.config, nnx.Rngs(params=key)), nnx.Param))
            return jax.tree.map(lambda x: x.astype(dtype), state)

        return draw(key)

    def layer(self, params: Params) -> Layer:
        """One layer as a callable, from its own slice of `params["layers"]`."""
        return nnx.merge(_declare(self.config)[0], params)

    @property
    def final_softcap(self) -> float | None:
        return self.config.final_softcap

    def angles(self, position_ST: Array) -> Array:
        """The rotary angles of these positions, [S, T, H / 2]."""
        c = self.config
        return layers.rope_angles(position_ST, layers.rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling))

    def embed(self, params: Params, tokens_ST: Array) -> Array:
        """Token ids -> the input of the first layer, [S, T, D] in the dtype of the parameters."""
        x_STD = layers.embed(params["embedding"], tokens_ST)
        if self.config.embed_scale is not None:
            # The published models round the factor itself to the compute dtype.
            x_STD *= jnp.asarray(self.config.embed_scale, x_STD.dtype)
        return x_STD

    def final_norm(self, params: Params, x_STD: Array) -> Array:
        return layers.rms_norm(x_STD, params["final_norm"], eps=self.config.norm_eps, offset=self.config.norm_offset)

    def unembedding(self, params: Params) -> Array:
        """The matrix W [V, D] whose product with a hidden state gives the logits, before `final_softcap`."""
        return params["embedding"] if self.config.tied else params["unembedding"]

    def unrolled(self, params: Params, tokens_ST: Array, position_ST: Array, attends: Sequence[Attend]) -> Array:
        """States after the final norm, [S, T, D], of layers that lie one by one in the tuple `params["layers"]`, each with an
        `attend` of its own."""
        x_STD, angle_STR = self.embed(params, tokens_ST), self.angles(position_ST)
        for layer_params, attend in zip(params["layers"], attends, strict=True):
            x_STD = self.layer(layer_params)(x_STD, angle_STR, attend)
        return self.final_norm(params, x_STD)

    def hidden(self, params: Params, packed: Packed) -> Array:
        """States after the final norm, [S, T, D] in the dtype of `params`, which is the dtype of the computation."""
        return self.tapped(params, packed, {})[0]

    def tapped(self, params: Params, packed: Packed, readers: Readers) -> tuple[Array, dict[str, Array]]:
        """(`hidden`, site -> what its reader keeps of each layer, stacked: [L, ...])."""
        period_ = period(self.config.layer_windows)
        angle_STR = self.angles(packed.position_ST)

        # Each layer takes its slice inside the checkpoint: the backward pass then keeps the stack itself, not a copy of all
        # weights, slice by slice.
        def run(x_STD: Array, group_params: Params, i: int) -> tuple[Array, dict[str, Array]]:
            return self.one_layer(jax.tree.map(operator.itemgetter(i), group_params), i, x_STD, angle_STR, packed, readers)

        def group(x_STD: Array, group_params: Params) -> tuple[Array, list[dict[str, Array]]]:
            found = []
            for i in range(period_):
                layer = jax.checkpoint(functools.partial(run, i=i), policy=REMAT[self.remat], prevent_cse=False)
                x_STD, kept = layer(x_STD, group_params)
                found.append(kept)
            return x_STD, found

        parts = [params[name] for name in (LAYERS, TOP) if name in params]
        stacks = jax.tree.map(lambda p: p.reshape(-1, period_, *p.shape[1:]), parts)
        x_STD, of_stacks = self.embed(params, packed.tokens_ST), []
        for stack in stacks:
            x_STD, found = jax.lax.scan(group, x_STD, stack)
            of_layers = {site: jnp.stack([kept[site] for kept in found], axis=1) for site in readers}
            of_stacks.append({site: x.reshape(-1, *x.shape[2:]) for site, x in of_layers.items()})
        kept = of_stacks[0] if len(of_stacks) == 1 else jax.tree.map(lambda *parts: jnp.concatenate(parts), *of_stacks)
        return self.final_norm(params, x_STD), kept

    def one_layer(
        self, params: Params, i: int, x_STD: Array, angle_STR: Array, packed: Packed, readers: Readers
    ) -> tuple[Array, dict[str, Array]]:
        """(the states after layer `i`, whose own parameters are given; what the readers keep of it)."""
        queries, keys = (Places(packed.position_ST, segment) for segment in (packed.segment_ST, packed.kv_segment_ST))
        c, found = self.config, dict[str, Array]()

        def attend(q_STNH: Array, k_STKH: Array, v_STKH: Array) -> Array:
            how = {"scale": c.query_scale, "softcap": c.attn_softcap, "window": c.layer_windows[i]}
            return attention(q_STNH, k_STKH, v_STKH, queries, keys, **how)

        return self.layer(params)(x_STD, angle_STR, attend, tap_into(found, readers)), found
