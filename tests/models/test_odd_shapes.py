"""Every family in odd shapes is transformers' own: states, log-probabilities and gradients of packed texts, and the export."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.models.families.registry import FAMILIES, build
from mpo_jax.models.weight_table import export_tree
from mpo_jax.scoring.sequences import answer_logps
from mpo_jax.types import Packed

torch = pytest.importorskip("torch", reason="the comparison is with transformers' models, which need torch")
import hf_models  # noqa: E402

LENGTHS = (19, 11)  # of the texts in one packed row, which ends with padding
T = 32
ODD = {"num_hidden_layers": 5, "num_key_value_heads": 1, "vocab_size": 101}
SHAPES = {
    "five layers": {"num_hidden_layers": 5},
    "one layer": {"num_hidden_layers": 1},
    "one key/value head": {"num_key_value_heads": 1},
    "a key/value head for every head": {"num_key_value_heads": 4},
    "wide heads": {"head_dim": 20},
    "a narrow window": {"sliding_window": 3},
    "an odd vocabulary": {"vocab_size": 101},
}
WINDOWS = ("gemma2", "gemma3_text", "mistral", "ministral", "cohere2", "exaone4", "qwen2")
FIXED_HEADS = ("cohere2", "cohere", "olmo2", "qwen2")  # in transformers head_dim is no key of their configs


def changes(name: str, shape: dict) -> dict:
    """The shape, as far as the family has it; heads that cannot be wider than hidden_size / heads are fewer."""
    shape = {key: value for key, value in shape.items() if key != "sliding_window" or name in WINDOWS}
    if name in FIXED_HEADS and shape.pop("head_dim", None):
        shape |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    return shape


def packed_row(vocab: int) -> tuple[list[np.ndarray], Packed]:
    """Two texts in one row; every token but the first of each is scored."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, vocab, n).astype(np.int32) for n in LENGTHS]
    row = {name: np.zeros((1, T), np.int32) for name in ("tokens_ST", "position_ST", "segment_ST", "kv_segment_ST")}
    at, labels, start = [], [], 0
    for number, text in enumerate(texts, 1):
        own = slice(start, start + len(text))
        row["tokens_ST"][0, own], row["position_ST"][0, own] = text, np.arange(len(text))
        row["segment_ST"][0, own] = row["kv_segment_ST"][0, own] = number
        at += range(start, start + len(text) - 1)
        labels += text[1:].tolist()
        start += len(text)
    none = np.zeros((1, 0), np.int32)
    scored = [np.asarray([x], np.int32) for x in (at, labels, [0] * len(at))]
    return texts, Packed(**row, answer_at_SA=scored[0], answer_label_SA=scored[1], answer_slot_SA=scored[2],
                         pool_slot_ST=none, pool_weight_ST=none)  # fmt: skip


def compare(name: str, tied: bool, shape: dict, folder) -> None:
    hf = hf_models.random(name, tied, **changes(name, shape))
    hf.save_pretrained(folder)
    family, model, _ = build(folder)
    params = load_params(folder, model, family, tiny.mesh())
    texts, packed = packed_row(model.config.vocab_size)

    def loss(params):
        hidden_STD = model.hidden(params, packed)
        read_STD = model.readout(hidden_STD)
        logp_SA = answer_logps(read_STD, model.unembedding(params), packed, model.final_softcap)
        return -jnp.sum(logp_SA) / logp_SA.size, (hidden_STD, logp_SA)

    (_, (hidden_STD, logp_SA)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    states, logps = [], []
    for text in texts:
        ids = torch.from_numpy(text)[None].long()
        out = hf(ids, output_hidden_states=True)
        states.append(out.hidden_states[-1][0])
        logps.append(torch.log_softmax(out.logits[0], -1)[range(len(text) - 1), ids[0, 1:]])
    theirs = torch.cat(logps)
    (-theirs.sum() / len(theirs)).backward()
    np.testing.assert_allclose(hidden_STD[0, : sum(LENGTHS)], torch.cat(states).detach(), atol=2e-4)
    np.testing.assert_allclose(logp_SA[0], theirs.detach(), atol=1e-4)

    table = family.weights(model.config)
    exported, original = dict(export_tree(params, model, table)), load_file(folder / "model.safetensors")
    assert exported.keys() == original.keys()
    assert all(np.array_equal(exported[key], original[key]) for key in original)
    of_theirs = dict(hf.named_parameters())
    for key, grad in export_tree(grads, model, table):
        expected = of_theirs[key].grad.numpy()
        np.testing.assert_allclose(grad, expected, atol=1e-3 * np.abs(expected).max() + 1e-7, err_msg=key)


@pytest.mark.parametrize("name", FAMILIES)
def test_odd_in_every_way(name, tmp_path):
    """Not tied, so that the unembedding has a gradient of its own."""
    compare(name, False, {**ODD, **SHAPES["wide heads"], **SHAPES["a narrow window"]}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_odd_in_one_way(name, shape, tmp_path):
    compare(name, True, SHAPES[shape], tmp_path)
