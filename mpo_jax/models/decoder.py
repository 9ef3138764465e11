"""What does the model compute? The one decoder of every family: packed tokens -> final hidden states.

NNX modules declare the parameters and their logical axes; after that parameters are plain nested dicts, and `Model` is a set of
pure functions of them: `lax.scan` over stacked layers under `jax.checkpoint`. Families differ by the data in `DecoderConfig`.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from mpo_jax.devices import sharding
from mpo_jax.errors import InputError, check_choice
from mpo_jax.models import layers
from mpo_jax.models.attention.api import attention
from mpo_jax.models.kept import LOGITS, REMAT
from mpo_jax.models.kinds import Choice, period, together
from mpo_jax.models.layers import Activation, LinearScaling, Llama3Scaling, QueryKeyNorm, Rope
from mpo_jax.models.parameters import LAYERS, TOP, grouped
from mpo_jax.models.taps import Readers, Tap, no_tap, tap_into
from mpo_jax.types import Array, Packed, Params, Places

Attend = Callable[[Array, Array, Array], Array]  # rotated q_STNH, rotated k_STKH, v_STKH -> seen_STNH; it may hold a cache

# Where a layer's norms stand: before attention and before the MLP; after each of them, before the residual sum; both; or one norm
# before attention and MLP side by side.
Norms = Literal["before", "after", "both", "parallel"]


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
    norm: Literal["rms", "layer"] = "rms"
    norm_offset: int = 0  # a norm multiplies by norm_offset + scale
    norms: Norms = "before"
    rope_scaling: Llama3Scaling | LinearScaling | None = None
    layer_ropes: tuple[Rope | None, ...] | None = None  # one entry a layer, None = no positions; where all have one: None
    rope_interleaved: bool = False  # see `layers.rotate`
    qk_norm: QueryKeyNorm | None = None
    qkv_bias: bool = False
    attn_softcap: float | None = None
    logit_scale: float | None = None  # for whoever computes logits, as the next one
    final_softcap: float | None = None
    embed_scale: float | None = None
    activation: Activation = "silu"

    @property
    def ropes(self) -> tuple[Rope | None, ...]:
        """The rotary embedding of each layer."""
        return self.layer_ropes or (Rope(self.rope_theta, self.rope_scaling),) * self.layers

    @property
    def kinds(self) -> tuple[tuple[int | None, Rope | None], ...]:
        """What one layer has and another may not: window and rotary embedding."""
        return tuple(zip(self.layer_windows, self.ropes, strict=True))

    @property
    def together(self) -> int:
        """How many layers one step of the loop over them has; a stack of layers has a multiple of it."""
        return together(self.kinds)

    def normed(self, x: Array, scale: Array) -> Array:
        return layers.NORMS[self.norm](x, scale, eps=self.norm_eps, offset=self.norm_offset)


class Layer(nnx.Module):
    """x + attention(x), then x + mlp(x), each with a norm before it, after it, or both; in parallel,
    x + attention(norm(x)) + mlp(norm(x))."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        c = config
        self.config = config
        self.attention = layers.Attention(
            width=c.hidden_size,
            heads=c.heads,
            kv_heads=c.kv_heads,
            head_dim=c.head_dim,
            bias=c.qkv_bias,
            qk_norm=c.qk_norm,
            norm_offset=c.norm_offset,
            interleaved=c.rope_interleaved,
            rngs=rngs,
        )
        self.mlp = layers.Mlp(width=c.hidden_size, ffn=c.ffn, activation=c.activation, rngs=rngs)
        scale = functools.partial(layers.norm_scale, (c.hidden_size,), c.norm_offset)
        if c.norms != "after":
            self.attention_norm = scale()
        if c.norms in ("before", "both"):
            self.mlp_norm = scale()
        if c.norms in ("after", "both"):
            self.attention_post_norm = scale()
            self.mlp_post_norm = scale()

    def __call__(self, x_STD: Array, angle_STR: Array | None, attend: Attend, tap: Tap = no_tap) -> Array:
        norm, norms = self.config.normed, self.config.norms
        read_STD = x_STD if norms == "after" else norm(x_STD, self.attention_norm[...])
        branch_STD = self.attention.output(attend(*self.attention.project(read_STD, angle_STR, norm)))
        if norms in ("after", "both"):
            branch_STD = norm(branch_STD, self.attention_post_norm[...])
        x_STD += branch_STD
        if norms != "parallel":  # there the MLP reads what attention has read
            read_STD = x_STD if norms == "after" else norm(x_STD, self.mlp_norm[...])
        branch_STD = self.mlp(read_STD, tap)
        if norms in ("after", "both"):
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
        self.final_norm = layers.norm_scale((config.hidden_size,), config.norm_offset)
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


@dataclasses.dataclass(frozen=True)
class Model:
    """A decoder as pure functions of its parameters, a tree of nested dicts.

    What is kept for the backward pass: `remat` names an entry of `REMAT`, what is kept of each layer; `logits` one of `LOGITS`,
    whether the logits of scored tokens are.
    """

    config: DecoderConfig
    remat: str = "full"
    logits: str = "recompute"

    def __post_init__(self) -> None:
        if self.remat not in REMAT:
            raise InputError(f"remat={self.remat!r} is not a rematerialisation policy: write one of {', '.join(REMAT)}.")

        check_choice("logits", self.logits, LOGITS)

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

    @property
    def keeps_logits(self) -> bool:
        return self.logits == "keep"

    def angles(self, position_ST: Array) -> tuple[Array | None, ...]:
        """The rotary angles of these positions in each layer, [S, T, H / 2]; None where a layer has no positions."""
        ropes = self.config.ropes
        frequencies = {rope: layers.rope_frequencies(self.config.head_dim, rope) for rope in ropes if rope is not None}
        angles = {rope: layers.rope_angles(position_ST, frequency) for rope, frequency in frequencies.items()}
        return tuple(None if rope is None else angles[rope] for rope in ropes)

    def embed(self, params: Params, tokens_ST: Array) -> Array:
        """Token ids -> the input of the first layer, [S, T, D] in the dtype of the parameters."""
        x_STD = layers.embed(params["embedding"], tokens_ST)
        if self.config.embed_scale is not None:
            # The published models round the factor itself to the compute dtype.
            x_STD *= jnp.asarray(self.config.embed_scale, x_STD.dtype)
        return x_STD

    def final_norm(self, params: Params, x_STD: Array) -> Array:
        return self.config.normed(x_STD, params["final_norm"])

    def readout(self, hidden: Array) -> Array:
        """Hidden states as the unembedding reads them: times the scale of the logits, where the family has one."""
        scale = self.config.logit_scale
        return hidden if scale is None else hidden * jnp.asarray(scale, hidden.dtype)

    def unembedding(self, params: Params) -> Array:
        """The matrix W [V, D] whose product with the `readout` of a hidden state gives the logits, before `final_softcap`."""
        return params["embedding"] if self.config.tied else params["unembedding"]

    def unrolled(self, params: Params, tokens_ST: Array, position_ST: Array, attends: Sequence[Attend]) -> Array:
        """States after the final norm, [S, T, D], of layers that lie one by one in the tuple `params["layers"]`, each with an
        `attend` of its own."""
        x_STD, angles = self.embed(params, tokens_ST), self.angles(position_ST)
        for layer_params, angle_STR, attend in zip(params["layers"], angles, attends, strict=True):
            x_STD = self.layer(layer_params)(x_STD, angle_STR, attend)
        return self.final_norm(params, x_STD)

    def hidden(self, params: Params, packed: Packed) -> Array:
        """States after the final norm, [S, T, D] in the dtype of `params`, which is the dtype of the computation."""
        return self.tapped(params, packed, {})[0]

    def tapped(self, params: Params, packed: Packed, readers: Readers) -> tuple[Array, dict[str, Array]]:
        """(`hidden`, site -> what its reader keeps of each layer, stacked: [L, ...])."""
        c = self.config
        angles = self.angles(packed.position_ST)

        def layer(i: int, angle_STR: Array | None, attend: Attend) -> Callable[..., tuple[Array, dict[str, Array]]]:
            # A layer takes its slice inside the checkpoint: the backward pass then keeps the stack itself, not a copy of all
            # weights, slice by slice.
            def run(x_STD: Array, group_params: Params) -> tuple[Array, dict[str, Array]]:
                return self._read(jax.tree.map(operator.itemgetter(i), group_params), x_STD, angle_STR, attend, readers)

            return jax.checkpoint(run, policy=REMAT[self.remat], prevent_cse=False)

        def group(x_STD: Array, group_params: Params) -> tuple[Array, list[dict[str, Array]]]:
            found = []
            for i in range(size):
                x_STD, kept = layer(i, angles[i], _attend_within(c, c.layer_windows[i], packed))(x_STD, group_params)
                found.append(kept)
            return x_STD, found

        def single(x_STD: Array, its: tuple[Params, Array]) -> tuple[Array, list[dict[str, Array]]]:
            assert choice is not None
            layer_params, number = its
            branches = [_attend_within(c, window, packed) for window, _ in choice.kinds]
            attend = lambda q_STNH, k_STKH, v_STKH: jax.lax.switch(number, branches, q_STNH, k_STKH, v_STKH)  # noqa: E731
            x_STD, kept = layer(0, choice.angle_KSTR[number], attend)(x_STD, layer_params)
            return x_STD, [kept]

        size, choice = c.together, None
        if size < period(c.kinds):
            choice = Choice.of(c.kinds, angles, jnp.zeros((*packed.position_ST.shape, c.head_dim // 2), jnp.float32))
        wholes = [params[name] for name in (LAYERS, TOP) if name in params]
        stacks = [grouped(whole, size) for whole in wholes]
        x_STD, first, of_stacks = self.embed(params, packed.tokens_ST), 0, []
        for stack in stacks:
            if choice is not None:
                last = first + len(jax.tree.leaves(stack)[0])
                x_STD, found = jax.lax.scan(single, x_STD, (stack, choice.number_L[first:last]))
                first = last
            else:
                x_STD, found = jax.lax.scan(group, x_STD, stack)
            of_layers = {site: jnp.stack([kept[site] for kept in found], axis=1) for site in readers}
            of_stacks.append({site: x.reshape(-1, *x.shape[2:]) for site, x in of_layers.items()})
        kept = of_stacks[0] if len(of_stacks) == 1 else jax.tree.map(lambda *parts: jnp.concatenate(parts), *of_stacks)
        return self.final_norm(params, x_STD), kept

    def one_layer(self, params: Params, i: int, x_STD: Array, packed: Packed, readers: Readers) -> tuple[Array, dict[str, Array]]:
        """(the states after layer `i`, whose own parameters are given; what the readers keep of it)."""
        attend = _attend_within(self.config, self.config.layer_windows[i], packed)
        return self._read(params, x_STD, self.angles(packed.position_ST)[i], attend, readers)

    def _read(
        self, params: Params, x_STD: Array, angle_STR: Array | None, attend: Attend, readers: Readers
    ) -> tuple[Array, dict[str, Array]]:
        found = dict[str, Array]()
        return self.layer(params)(x_STD, angle_STR, attend, tap_into(found, readers)), found


def _attend_within(config: DecoderConfig, window: int | None, packed: Packed) -> Attend:
    """Attention on packed rows, in layers with this window."""
    queries, keys = (Places(packed.position_ST, segment) for segment in (packed.segment_ST, packed.kv_segment_ST))
    how: dict[str, Any] = {"scale": config.query_scale, "softcap": config.attn_softcap, "window": window}
    return lambda q_STNH, k_STKH, v_STKH: attention(q_STNH, k_STKH, v_STKH, queries, keys, **how)
