"""The decoder: equal to transformers, causal, indifferent to packing, to rematerialisation and to the mesh."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest

from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.devices.sharding import MeshConfig, make_mesh
from mpo_jax.errors import InputError
from mpo_jax.models import kinds
from mpo_jax.models.decoder import DecoderConfig, Model
from mpo_jax.models.families.registry import FAMILIES, build
from mpo_jax.models.kept import REMAT
from mpo_jax.models.kinds import period
from mpo_jax.models.layers import Rope
from mpo_jax.types import Packed

FIXTURES = Path(__file__).parent.parent / "fixtures"
CONFIG = DecoderConfig(
    vocab_size=96, hidden_size=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn=48, norm_eps=1e-6, rope_theta=1e4,
    query_scale=8**-0.5, layer_windows=(6, None), tied=True, norm_offset=1, qkv_bias=True, attn_softcap=2.0,
    norms="both", embed_scale=32**0.5, activation="gelu_tanh",
)  # fmt: skip


def packed(tokens_ST, segment_ST=None, position_ST=None, kv_segment_ST=None) -> Packed:
    S, T = tokens_ST.shape
    segment_ST = np.ones((S, T), np.int32) if segment_ST is None else segment_ST
    position_ST = np.tile(np.arange(T, dtype=np.int32), (S, 1)) if position_ST is None else position_ST
    none = np.zeros((S, 0), np.int32)
    return Packed(tokens_ST, position_ST, segment_ST, segment_ST if kv_segment_ST is None else kv_segment_ST, *(none,) * 5)


def tokens(S: int, T: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 96, (S, T)).astype(np.int32)


def random_params(model: Model, seed: int = 0):
    """Nothing at identity: every parameter must matter."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0.0, 0.1, x.shape).astype(np.float32), model.abstract())


def logits(model: Model, params, hidden_STD):
    logits_STV = np.einsum("STD,VD->STV", model.readout(hidden_STD), model.unembedding(params))
    cap = model.config.final_softcap
    return logits_STV if cap is None else cap * np.tanh(logits_STV / cap)


def load(folder):
    family, model, _ = build(folder)
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    return model, load_params(folder, model, family, mesh)


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_stored_outputs_of_transformers(name):
    model, params = load(FIXTURES / name)
    expected = np.load(FIXTURES / name / "expected.npz")
    hidden = jax.jit(model.hidden)(params, packed(expected["tokens"]))
    np.testing.assert_allclose(hidden, expected["hidden"], atol=1e-5)
    np.testing.assert_allclose(logits(model, params, hidden), expected["logits"], atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_equals_transformers_live(name, tied, tmp_path):
    torch = pytest.importorskip("torch")
    import hf_models

    hf = hf_models.random(name, tied)
    hf.save_pretrained(tmp_path)
    lengths, T = [24, 17], 24
    tokens_ST, mask_ST = tokens(2, T), (np.arange(T)[None] < np.array(lengths)[:, None]).astype(np.int32)
    with torch.no_grad():
        out = hf(torch.tensor(tokens_ST).long(), attention_mask=torch.tensor(mask_ST), output_hidden_states=True)
    model, params = load(tmp_path)
    hidden = jax.jit(model.hidden)(params, packed(tokens_ST, kv_segment_ST=mask_ST))
    for row, n in enumerate(lengths):
        np.testing.assert_allclose(hidden[row, :n], out.hidden_states[-1][row, :n], atol=1e-5)
        np.testing.assert_allclose(logits(model, params, hidden)[row, :n], out.logits[row, :n], atol=1e-5)


@pytest.mark.parametrize("name", ["llama_untied", "qwen2_tied"])
@pytest.mark.parametrize("who", ["ref", "policy"])
def test_equals_golden_numbers(shared, name, who):
    model, params = load(shared / "golden" / name / who)
    batch, golden = np.load(shared / "golden" / "batch.npz"), np.load(shared / "golden" / name / "golden.npz")
    ids, mask = batch["source_input_ids"][[0, 9]], batch["source_attention_mask"][[0, 9]]
    hidden = jax.jit(model.hidden)(params, packed(ids, kv_segment_ST=mask))
    np.testing.assert_allclose(hidden, golden[f"f64/{who}_probe_hidden"], atol=2e-5)
    ids, mask = batch["target_input_ids"][[2]], batch["target_attention_mask"][[2]]
    hidden = jax.jit(model.hidden)(params, packed(ids, kv_segment_ST=mask))
    np.testing.assert_allclose(logits(model, params, hidden)[0], golden[f"f64/{who}_probe_logits"], atol=3e-5)


def test_a_state_depends_on_its_past_only():
    model = Model(CONFIG)
    params = random_params(model)
    table = params["embedding"]  # every token of the row is another one, so that each has an embedding of its own
    row = packed(np.arange(10, dtype=np.int32)[None])
    state = lambda table: jnp.sum(model.hidden(params | {"embedding": table}, row)[0, 6, :9])  # noqa: E731
    reached = np.abs(jax.jit(jax.grad(state))(table)).sum(axis=1)
    assert np.all(reached[:7] > 0) and np.all(reached[7:] == 0)


def test_two_segments_in_a_row_are_each_alone():
    model = Model(CONFIG)
    params, ids = random_params(model), tokens(1, 20)
    segment = np.array([[1] * 9 + [2] * 11], np.int32)
    position = np.array([[*range(9), *range(11)]], np.int32)
    hidden = jax.jit(model.hidden)
    both = hidden(params, packed(ids, segment, position))
    np.testing.assert_allclose(both[:, :9], hidden(params, packed(ids[:, :9])), atol=1e-5)
    np.testing.assert_allclose(both[:, 9:], hidden(params, packed(ids[:, 9:])), atol=1e-5)


def test_dtype_of_the_parameters_is_the_dtype_of_the_computation():
    model = Model(CONFIG)
    params = random_params(model)
    exact = jax.jit(model.hidden)(params, packed(tokens(2, 12)))
    rounded = jax.jit(model.hidden)(jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), packed(tokens(2, 12)))
    assert exact.dtype == jnp.float32 and rounded.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(rounded, np.float32) - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.05


def test_rematerialisation_changes_no_gradient():
    config = dataclasses.replace(CONFIG, layer_windows=(6,) * 2, norms="before", qkv_bias=False)
    params = random_params(Model(config))
    grads = {}
    for name in REMAT:
        model = Model(config, name)
        loss = lambda p, model=model: jnp.sum(jnp.square(model.hidden(p, packed(tokens(2, 12)))))  # noqa: E731
        grads[name] = jax.jit(jax.grad(loss), compiler_options={"xla_backend_optimization_level": 0})(params)
    for grad in grads.values():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), grad, grads["none"])


@pytest.mark.parametrize("remat", ["attention", "full"])
def test_a_loop_over_single_layers_computes_what_a_loop_over_groups_does(monkeypatch, remat):
    """And the policies of rematerialisation reach into the choice."""
    ropes = (Rope(1e4), None, Rope(1e4), Rope(1e4), Rope(1e5))
    config = dataclasses.replace(CONFIG, layers=5, layer_windows=(6, None, 6, 6, None), layer_ropes=ropes)
    model, batch = Model(config, remat), packed(tokens(2, 12))
    params = random_params(model)
    loss = jax.value_and_grad(lambda params: jnp.sum(jnp.square(model.hidden(params, batch))))

    def compiled():
        text = jax.jit(loss).lower(params).as_text()
        return jax.jit(loss)(params), text.count("stablehlo.case"), text.count("stablehlo.exponential")

    (expected, expected_grads), cases, _ = compiled()
    assert cases == 0
    monkeypatch.setattr(kinds, "UNROLLED", 4)
    jax.clear_caches()
    (value, grads), cases, exponentials = compiled()
    assert cases > 0
    many = 3  # kinds of attention: two exponentials forward, one backward, and the first two again where they are recomputed
    assert exponentials == many * {"attention": 3, "full": 5}[remat]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * np.abs(b).max()), grads, expected_grads)


def test_the_programs_of_the_first_families_have_the_same_operations():
    """What the newer families need is data whose defaults leave no trace in the older ones' programs."""
    stored = json.loads(programs.STORED.read_text())
    if stored["jax"] != jax.__version__:
        pytest.skip(f"the counts are of jax {stored['jax']}: write them anew with the code before the change")
    for name in programs.NAMES:
        assert programs.counts(name) == stored["counts"][name]


def test_unknown_rematerialisation_lists_the_known():
    with pytest.raises(InputError, match="none, dots, attention, offload, full"):
        Model(CONFIG, "some")


@pytest.mark.parametrize(
    ("windows", "expected"), [((None,) * 4, 1), ((8, None) * 3, 2), ((8, None, None, 8), 4), ((None, 8, 8), 3), ((8,), 1)]
)
def test_period(windows, expected):
    assert period(windows) == expected


def test_abstract_names_the_parameter_that_does_not_divide():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=4))
    with pytest.raises(InputError, match=r"layers\.attention\.k.*kv_heads"):
        Model(CONFIG).abstract(mesh)


@pytest.mark.parametrize("tied", [False, True])
def test_init_axes_and_abstract_are_one_tree(tied):
    model = Model(dataclasses.replace(CONFIG, tied=tied))
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    params, abstract = model.init(jax.random.key(0), jnp.bfloat16), model.abstract(mesh, jnp.bfloat16)
    described = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert described(params) == described(abstract)
    assert jax.tree.all(jax.tree.map(lambda a, axes: len(axes) == len(a.shape), abstract, model.axes()))
    assert ("unembedding" in params) is not tied
    assert abstract["layers"]["attention"]["q"].sharding.spec == jax.P(None, "fsdp", "tensor", None)


MESHES = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_numpy_rank_promotion", "raise")
from mpo_jax.models.decoder import DecoderConfig, Model
from mpo_jax.devices.sharding import MeshConfig, host_to_global, make_mesh
from mpo_jax.types import Packed

config = DecoderConfig(vocab_size=96, hidden_size=32, layers=2, heads=8, kv_heads=8, head_dim=4, ffn=48, norm_eps=1e-6,
    rope_theta=1e4, query_scale=0.5, layer_windows=(6, 6), tied=True, norms="both", qkv_bias=True)
model = Model(config)
rng = np.random.default_rng(0)
params = jax.tree.map(lambda x: rng.normal(0.0, 0.1, x.shape).astype(np.float32), model.abstract())
S, T = 8, 16
tokens_ST = rng.integers(0, 96, (S, T)).astype(np.int32)
row_ST, one_ST = np.tile(np.arange(T, dtype=np.int32), (S, 1)), np.ones((S, T), np.int32)
packed = Packed(tokens_ST, row_ST, one_ST, one_ST, *(np.zeros((S, 0), np.int32),) * 5)

def loss(params, packed):
    logits_STV = jnp.einsum("STD,VD->STV", model.hidden(params, packed), model.unembedding(params))
    return jnp.mean(jax.nn.logsumexp(logits_STV, axis=-1))

expected = jax.jit(jax.value_and_grad(loss))(params, packed)
for sizes in [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]:
    mesh = make_mesh(MeshConfig(*sizes))
    places = jax.tree.map(lambda a: a.sharding, model.abstract(mesh))
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, places), host_to_global(packed, mesh, ("batch",))
        jax.jit(loss).lower(*placed).compile()
        value, grads = jax.jit(jax.value_and_grad(loss), out_shardings=(None, places))(*placed)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), jax.device_get(grads), expected[1])
print("agreed")
"""


@pytest.mark.slow
def test_meshes_agree_and_the_compiler_does_not_complain():
    """Tied, because then one sharded table is both looked up and multiplied with."""
    root = Path(__file__).parent.parent.parent
    environment = os.environ | {"PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "0"}
    run = subprocess.run([sys.executable, "-c", MESHES], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "agreed" in run.stdout, run.stderr
    assert "Involuntary full rematerialization" not in run.stderr


def test_the_embed_scale_is_rounded_to_the_compute_dtype():
    """As in the published Gemma: in bfloat16 the factor is 5.65625, not the root of 32, and the product is rounded once more."""
    model = Model(CONFIG)
    params = {"embedding": jnp.asarray(np.random.default_rng(0).normal(size=(96, 32)), jnp.bfloat16)}
    every = np.arange(96, dtype=np.int32)[None]
    rounded = params["embedding"].astype(jnp.float32) * 5.65625
    np.testing.assert_array_equal(model.embed(params, every)[0], rounded.astype(jnp.bfloat16))
    assert (rounded.astype(jnp.bfloat16) != (params["embedding"].astype(jnp.float32) * 32**0.5).astype(jnp.bfloat16)).any()
