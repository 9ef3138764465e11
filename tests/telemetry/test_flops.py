"""The count is the hand's, a brute count of pairs, and the compiler's where that can be had."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from mpo_jax.models.adapters import LoraConfig, abstract_adapter, prepared
from mpo_jax.models.decoder import dotted
from mpo_jax.models.parameters import cut, joined
from mpo_jax.scoring.sequences import score
from mpo_jax.telemetry.flops import Work, attention_flops, backward_flops, counted, forward_flops, update_work, visible_pairs
from mpo_jax.training.trainable import split
from mpo_jax.types import Packed, Pair, Reads, Scores, SequenceScores, Want


def rows(*lengths: list[tuple[int, int]], T: int = 16, scored: int = 3) -> Packed:
    """Packed rows of sequences of (positions, real tokens among them), `scored` scored positions in each row."""
    arrays = {name: np.zeros((len(lengths), T), np.int32) for name in ("position_ST", "segment_ST", "kv_segment_ST")}
    for s, row in enumerate(lengths):
        start = 0
        for segment, (length, real) in enumerate(row, start=1):
            arrays["position_ST"][s, start : start + length] = np.arange(length)
            arrays["segment_ST"][s, start : start + length] = segment
            arrays["kv_segment_ST"][s, start : start + real] = segment
            start += length
    slot_SA = np.full((len(lengths), 8), -1, np.int32)
    slot_SA[:, :scored] = 0
    zeros = np.zeros((len(lengths), T), np.int32)
    return Packed(
        **arrays,
        tokens_ST=zeros,
        answer_at_SA=np.zeros_like(slot_SA),
        answer_label_SA=np.zeros_like(slot_SA),
        answer_slot_SA=slot_SA,
        pool_slot_ST=zeros,
        pool_weight_ST=zeros.astype(np.float32),
    )


WHOLE = tiny.model().abstract()
PACKED = rows([(5, 5), (7, 4)], [(16, 16)])


def brute(packed: Packed, window: int | None) -> int:
    count = 0
    for position, segment, kv in zip(packed.position_ST, packed.segment_ST, packed.kv_segment_ST, strict=True):
        for q in range(len(segment)):
            for k in range(q + 1):
                near = window is None or position[q] - position[k] < window
                count += bool(segment[q] > 0 and segment[q] == kv[k] and near)
    return count


@pytest.mark.parametrize("window", [None, 1, 3, 100])
def test_pairs_are_those_that_attention_sees(window):
    assert visible_pairs(PACKED, window) == brute(PACKED, window)
    assert visible_pairs(jax.tree.map(lambda x: x[None], PACKED), window) == brute(PACKED, window)


def test_a_forward_pass_by_hand():
    """Two layers, the first with a window of 2. 28 positions, 6 of them scored."""
    config = dataclasses.replace(tiny.CONFIG, layer_windows=(2, None), heads=4, kv_heads=2)
    q_and_o, k_and_v, mlp = 2 * 32 * 4 * 8, 2 * 32 * 2 * 8, 3 * 32 * 64
    # Of 5 tokens; of 7 positions with 4 tokens; of 16 tokens.
    near = (1 + 4 * 2) + (1 + 3 * 2 + 1 + 0 + 0) + (1 + 15 * 2)
    far = 15 + (1 + 2 + 3 + 4 * 4) + 136
    by_hand = 2 * 28 * 2 * (q_and_o + k_and_v + mlp) + 4 * 4 * 8 * (near + far) + 2 * 6 * 32 * tiny.VOCAB
    assert forward_flops(config, counted(config, PACKED)) == by_hand


def of(batch, trainable=WHOLE):
    return update_work(tiny.CONFIG, batch, trainable)


def forward(packed, trainable=None):
    return forward_flops(tiny.CONFIG, counted(tiny.CONFIG, packed), trainable)


def test_an_update_is_three_passes_of_the_policy_and_one_of_a_live_reference():
    batch = dataclasses.replace(tiny.batch(), mismatch=None)
    policy, reference = (forward(x) for x in (batch.policy, batch.reference))
    live = of(batch)
    assert live.flops == 3 * policy + reference
    assert live.positions == 2 * batch.policy.tokens_ST.size
    assert live.tokens == 2 * (batch.policy.kv_segment_ST > 0).sum()
    cached = dataclasses.replace(batch, reference=Scores())
    assert of(cached).flops == 3 * policy
    assert of(dataclasses.replace(batch, reference=None)).flops == 3 * policy
    assert update_work(tiny.CONFIG, batch, WHOLE, learns=False).flops == policy + reference


def test_attention_is_a_part_of_an_update():
    batch = dataclasses.replace(tiny.batch(), mismatch=None, reference=None)
    pairs = sum(counted(tiny.CONFIG, batch.policy).pairs)
    assert attention_flops(tiny.CONFIG, batch, WHOLE) == 3 * 4 * tiny.CONFIG.heads * tiny.CONFIG.head_dim * pairs


def test_mismatched_pairs_and_divergences():
    batch = dataclasses.replace(tiny.batch(divergence=True), reference=None)
    alone = of(dataclasses.replace(batch, mismatch=None, divergence=None)).flops
    mismatch, divergence = (forward(x) for x in (batch.mismatch, batch.divergence))
    assert of(batch).flops == alone + 2 * mismatch + 4 * divergence
    stored = Scores(mismatch=Pair(SequenceScores(), SequenceScores()))
    assert of(dataclasses.replace(batch, reference=stored)).flops == alone + mismatch + 4 * divergence


def test_microbatches_are_the_same_work():
    batch = tiny.batch()
    assert of(tiny.micro(batch, 2)) == of(batch)
    assert Work(1, 2, 3) + Work(1, 2, 3) == Work(2, 4, 6)


def test_the_compiler_counts_the_same():
    """One layer and one row, so that no loop's body runs twice; wide, so that products outweigh the rest. The compiler sees the
    block of all queries and keys, which the convention does not count."""
    T, D, F, V = 64, 128, 512, 512
    model = tiny.model(layers=1, layer_windows=(None,), hidden_size=D, ffn=F, vocab_size=V)
    packed = rows([(T, T)], T=T, scored=8)
    reads = Reads(target=Want.LOGP)
    compiled = jax.jit(lambda params, x: score(model, params, x, reads, 1)).lower(model.abstract(), packed).compile()
    unseen = T * T - visible_pairs(packed, None)
    expected = (
        forward_flops(model.config, counted(model.config, packed)) + 4 * unseen * model.config.heads * model.config.head_dim
    )
    np.testing.assert_allclose(compiled.cost_analysis()["flops"], expected, rtol=0.05)


CHANGES = {
    "llama": {},
    "gemma2": {"tied": True, "norms": "both", "layer_windows": (2, None), "kv_heads": 2, "final_softcap": 30.0},
    "qwen2": {"qkv_bias": True, "kv_heads": 2},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_training_everything_is_two_products_for_each_of_the_forward_pass(changes):
    model = tiny.model(**changes)
    counts = counted(model.config, PACKED)
    assert backward_flops(model.config, counts, model.abstract()) == 2 * forward_flops(model.config, counts)


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_upper_layers_alone_are_a_shorter_models_layers(changes):
    """Nothing depends on the frozen layers below, nor on the embedding."""
    deep, short = (
        tiny.model(**changes | {"layers": 4, "layer_windows": (None,) * 4}),
        tiny.model(**changes | {"layer_windows": (None,) * 2}),
    )
    top = {"top_layers": cut(deep.abstract(), 2)["top_layers"]}
    counts = counted(deep.config, PACKED)
    expected = backward_flops(short.config, counted(short.config, PACKED), {"layers": short.abstract()["layers"]})
    assert backward_flops(deep.config, counts, top) == expected
    assert expected < backward_flops(deep.config, counts, {"layers": deep.abstract()["layers"]})


def test_an_adapters_update_by_hand():
    """Rank 3 at q and down of two layers. Nothing is trained below the first layer's queries."""
    adapter = abstract_adapter(tiny.model(), LoraConfig(3, 1.0, "q_proj,down_proj"))
    P, S, pairs = counted(tiny.CONFIG, PACKED)
    D, N, F, r, unembed = 32, 64, 64, 3, 32 * tiny.VOCAB
    matrices, of_pairs, factors = P * (4 * D * N + 3 * D * F), sum(pairs) * N, P * r * (D + N + F + D)
    plain = 2 * matrices + 2 * of_pairs + S * unembed
    assert forward(PACKED, adapter) == 2 * (plain + 2 * factors) == forward(PACKED) + 4 * factors
    states = matrices - P * 3 * D * N + matrices  # not those before q, k and v of the first layer
    # there keys and values depend on nothing trained: a pair has the gradients of its probability and its query
    attention = pairs[0] * N * 2 + pairs[1] * N * 4
    backward = states + attention + S * unembed + 2 * 2 * factors - P * r * D  # but for the first A's input
    assert backward_flops(tiny.CONFIG, counted(tiny.CONFIG, PACKED), adapter) == 2 * backward
    batch = dataclasses.replace(tiny.batch(), mismatch=None)
    learnt = of(dataclasses.replace(batch, reference=None), adapter).flops
    assert of(batch, adapter).flops == learnt + forward(batch.reference), "the reference has no adapter"
    both = tiny.batch()
    assert of(both, adapter).flops == of(batch, adapter).flops + forward(both.mismatch, adapter) + forward(both.mismatch)


@pytest.mark.parametrize("norms", ["both", "parallel"])
@pytest.mark.parametrize(
    "trained",
    [
        "everything",
        "lora",
        "lora of q",
        "lora of v,o",
        "lora of up",
        "lora of down",
        "all but embedding",
        "mlp.down",
        "unembedding",
        "final_norm",
        "attention_post_norm",
        "mlp_norm",
        "attention.k",
    ],
)
def test_the_compiler_makes_the_products_that_are_counted(trained, norms):
    """In the gradient of what a pass over one layer and one row scores. Everything is kept for the backward pass, so that nothing
    is computed twice; the compiler's blocks of attention see all pairs."""
    T, D, F, V = 64, 256, 1024, 1024
    model = tiny.model(layers=1, layer_windows=(None,), hidden_size=D, ffn=F, vocab_size=V, norms=norms)
    model = dataclasses.replace(model, remat="none")
    packed, reads, shapes = rows([(T, T)], T=T, scored=8), Reads(target=Want.LOGP), model.abstract()
    kind, _, which = trained.partition(" of ")
    if kind == "lora":
        targets = ",".join(f"{name}_proj" for name in which.split(",")) if which else "all"
        config = LoraConfig(16, 1.0, targets)
        trainable, frozen = abstract_adapter(model, config), prepared(shapes, config)
    elif trained in ("everything", "all but embedding"):
        trainable, frozen = split(shapes, "" if trained == "everything" else "embedding")
    else:
        if norms == "parallel" and trained in ("attention_post_norm", "mlp_norm"):
            pytest.skip("a parallel layer has one norm")
        names = {dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)}
        trainable, frozen = split(shapes, ",".join(name for name in names if not name.endswith(trained)))

    def total(trainable, frozen, x):
        pair = score(model, joined(trainable, frozen), x, reads, 1).target
        return pair.chosen.logp_B.sum()

    compiled = jax.jit(jax.grad(total)).lower(trainable, frozen, packed).compile()
    counts = counted(model.config, packed)._replace(pairs=(T * T,))
    found = compiled.cost_analysis()["flops"]
    expected = forward_flops(model.config, counts, trainable) + backward_flops(model.config, counts, trainable)
    np.testing.assert_allclose(found, expected, rtol=0.05)
