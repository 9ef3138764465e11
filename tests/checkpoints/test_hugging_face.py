"""Hugging Face in and out: bit for bit, on any mesh, with a sentence for every way in which a folder can be wrong."""

import errno
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mpo_jax.checkpoints.export_folder import check_export_dir
from mpo_jax.checkpoints.hugging_face import ExportReport, load_params, save_hf
from mpo_jax.devices.sharding import MeshConfig, make_mesh
from mpo_jax.errors import InputError
from mpo_jax.models.adapters import LoraConfig, abstract_adapter, changes, merged, prepared
from mpo_jax.models.families.registry import FAMILIES, build
from mpo_jax.models.parameters import joined
from mpo_jax.models.weight_table import export_tree

FIXTURES = Path(__file__).parent.parent / "fixtures"
ONE = MeshConfig(1, 1, 1)


def mesh_of(config: MeshConfig = ONE):
    return make_mesh(config, jax.devices()[: config.data * config.fsdp * config.tensor])


UP = "model.layers.1.mlp.up_proj.weight"


def checkpoint(folder: Path, name: str, *, tied: bool, dtype: str = "float32", **config) -> Path:
    """A random checkpoint with the fixture's sizes, and other settings in its config.json."""
    folder.mkdir()
    raw = json.loads((FIXTURES / name / "config.json").read_text()) | {"tie_word_embeddings": tied, "dtype": dtype} | config
    (folder / "config.json").write_text(json.dumps(raw))
    family, model, _ = build(folder)
    rng = np.random.default_rng(0)
    tree = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(jnp.dtype(dtype)), model.abstract())
    save_file(dict(export_tree(tree, model, family.weights(model.config))), folder / "model.safetensors")
    return folder


def load(folder: Path, config: MeshConfig = ONE, dtype=jnp.float32):
    family, model, _ = build(folder)
    return load_params(folder, model, family, mesh_of(config), dtype)


def save(params, out: Path, source: Path, **options):
    family, model, _ = build(source)
    given = {"dtype": "float32", "model_card": lambda report: f"# A model\n{report}\n"} | options
    return save_hf(params, out, model=model, family=family, source_dir=source, **given)


def tensors(folder: Path) -> dict[str, np.ndarray]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def assert_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype
        np.testing.assert_array_equal(tensor, b[name], err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_import_export_import_is_bitwise(tmp_path, name, tied, dtype):
    source = checkpoint(tmp_path / "source", name, tied=tied, dtype=dtype)
    params = load(source)
    report = save(params, tmp_path / "out", source, dtype=dtype)
    assert_equal(tensors(source), tensors(tmp_path / "out"))
    again = load(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert (report.changed_weights, report.largest_change) == (0, 0)
    assert report.total_weights == sum(x.size for x in jax.tree.leaves(params))
    assert report.total_weights == sum(x.size for x in jax.tree.leaves(params))
    assert build(tmp_path / "out")[1] == build(source)[1]


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2), (4, 1, 2), (8, 1, 1)])
def test_any_mesh_loads_the_same_in_its_shardings(sizes):
    family, model, _ = build(FIXTURES / "qwen2")
    whole, mesh = load(FIXTURES / "qwen2"), make_mesh(MeshConfig(*sizes))
    sharded = load_params(FIXTURES / "qwen2", model, family, mesh)
    jax.tree.map(np.testing.assert_array_equal, whole, sharded)
    for leaf, like in zip(jax.tree.leaves(sharded), jax.tree.leaves(model.abstract(mesh)), strict=True):
        assert leaf.sharding == like.sharding and leaf.dtype == like.dtype


def test_shards_index_and_what_lies_beside(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(FIXTURES / "llama", source)
    (source / "tokenizer.json").write_text("{}")
    (source / "generation_config.json").write_text("{}")
    (source / "optimizer.pt").write_text("")
    params = load(source, MeshConfig(1, 2, 2))
    report = save(params, tmp_path / "out", source, max_shard_bytes=30_000)
    out = tmp_path / "out"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)] and len(files) > 2
    for file in files:
        stored = load_file(out / file)
        assert {index["weight_map"][name] for name in stored} == {file}
        assert len(stored) == 1 or sum(x.nbytes for x in stored.values()) <= 30_000
    assert_equal(tensors(source), tensors(out))
    beside = {"model.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json", "README.md"}
    assert {path.name for path in out.iterdir()} == {*files, *beside}
    assert (out / "README.md").read_text() == f"# A model\n{report}\n"
    assert not (tmp_path / "out.partial").exists()
    jax.tree.map(np.testing.assert_array_equal, params, load(out))


def test_an_export_in_bfloat16_takes_the_nearest_of_its_numbers(tmp_path):
    """Between numbers of bfloat16, which are a 128th apart where they are 1: no further than half of that from float32's."""
    source = checkpoint(tmp_path / "source", "llama", tied=True)
    save(load(source), tmp_path / "out", source, dtype="bfloat16")
    for name, exact in tensors(source).items():
        rounded = tensors(tmp_path / "out")[name].astype(np.float32)
        step = 2.0 ** (np.floor(np.log2(np.abs(exact))) - 7)
        error = np.abs(rounded - exact) / step
        assert 0.45 < error.max() <= 0.5, name


def test_changed_weights_are_counted_after_rounding(tmp_path):
    source = checkpoint(tmp_path / "source", "llama", tied=True, dtype="bfloat16")
    params = load(source)
    params["final_norm"] = params["final_norm"] * (1 + 1e-5)  # below half a bfloat16 step
    params["layers"]["mlp"]["up"] = params["layers"]["mlp"]["up"].at[1, :, 0].multiply(2.0)
    width = params["final_norm"].size
    rounded, exact = (save(params, tmp_path / dtype, source, dtype=dtype) for dtype in ("bfloat16", "float32"))
    assert (rounded.changed_weights, exact.changed_weights) == (width, 2 * width)
    column = np.linalg.norm(tensors(source)[UP].astype(np.float32)[0])
    assert rounded.largest_change == pytest.approx(column / np.linalg.norm(tensors(source)[UP].astype(np.float32)), rel=1e-6)
    total = sum(x.size for x in tensors(source).values())
    assert str(rounded) == (
        f"{width} of {total:,} weights ({width / total:.1%}) differ from the original model's in bfloat16; the largest relative "
        f"change of a tensor is {rounded.largest_change:.2g}, of {UP}"
    )
    assert f"{rounded}" in (tmp_path / "bfloat16" / "README.md").read_text()


def test_a_zero_that_changes_is_an_infinite_change():
    report = ExportReport("float32").beside("a", np.ones((2, 3)), np.ones((2, 3))).beside("b", np.ones(3), np.zeros(3))
    assert (report.total_weights, report.changed_weights, report.largest_change, report.most_changed) == (9, 3, np.inf, "b")


def test_what_was_not_trained_is_exported_as_it_was(tmp_path):
    """And an adapter's change is added in float32 to what the files hold."""
    source = checkpoint(tmp_path / "source", "gemma2", tied=True, dtype="bfloat16")
    family, model, _ = build(source)
    config, on, random = LoraConfig(3, 5.0, "o_proj,gate_proj"), mesh_of(MeshConfig(2, 2, 2)), np.random.default_rng(0)
    abstract = abstract_adapter(model, config, on)
    adapter = jax.tree.map(lambda x: jax.device_put(random.normal(size=x.shape).astype(np.float32), x.sharding), abstract)
    save(changes(adapter, config), tmp_path / "out", source)
    expected = dict(
        export_tree(
            merged(joined(adapter, prepared(load(source, MeshConfig(2, 2, 2)), config))), model, family.weights(model.config)
        )
    )
    before, after = tensors(source), tensors(tmp_path / "out")
    for name, tensor in after.items():
        adapted = "o_proj" in name or "gate_proj" in name
        assert np.array_equal(tensor, before[name]) != adapted, name
        np.testing.assert_allclose(tensor, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    only = {"layers": {"mlp": {"up": load(source)["layers"]["mlp"]["up"] + 1}}, "final_norm": load(source)["final_norm"]}
    report = save(only, tmp_path / "part", source)
    assert report.changed_weights == model.abstract()["layers"]["mlp"]["up"].size


def test_transformers_reads_the_export(tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    params = load(FIXTURES / "gemma2", MeshConfig(2, 2, 2))
    save(params, tmp_path / "out", FIXTURES / "gemma2")
    expected = np.load(FIXTURES / "gemma2" / "expected.npz")
    hf = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    with torch.no_grad():
        logits = hf(torch.tensor(expected["tokens"]).long()).logits
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)


def test_an_export_never_overwrites_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        check_export_dir(tmp_path / "full")
    with pytest.raises(InputError, match="cannot be written"):
        check_export_dir(tmp_path / "full" / "note" / "below")
    check_export_dir(tmp_path / "new" / "folder")
    params = load(FIXTURES / "qwen2")

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mpo_jax.checkpoints.hugging_face.save_file", fail)
    with pytest.raises(InputError, match=r"could not be written to .*out .*No space left on device"):
        save(params, tmp_path / "out", FIXTURES / "qwen2")
    assert not list(tmp_path.glob("out*"))
    monkeypatch.undo()
    (tmp_path / "out.partial").mkdir()  # of a process that died
    (tmp_path / "out.partial" / "model.safetensors").write_text("half")
    save(params, tmp_path / "out", FIXTURES / "qwen2")


def broken(tmp_path: Path, edit) -> Path:
    """The Llama fixture with its tensors edited."""
    folder = tmp_path / "broken"
    shutil.copytree(FIXTURES / "llama", folder)
    stored = load_file(folder / "model.safetensors")
    edit(stored)
    save_file(stored, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), r"lacks model\.layers\.1\.mlp\.up_proj\.weight"),
        (lambda t: t.pop("lm_head.weight"), r"lacks lm_head\.weight"),
        (lambda t: t.update({"model.norm.weight": np.zeros(7, np.float32)}), r"model\.norm\.weight.*\(7,\).*\(32,\)"),
        (lambda t: t.update({"model.norm.bias": np.zeros(32, np.float32)}), r"has model\.norm\.bias"),
        (lambda t: t.update({"model.norm.weight": np.zeros(32, np.int8)}), "type I8"),
    ],
)
def test_wrong_tensors_are_named(tmp_path, edit, words):
    with pytest.raises(InputError, match=words):
        load(broken(tmp_path, edit))


def test_rotary_frequencies_and_a_tied_head_are_passed_over(tmp_path):
    load(broken(tmp_path, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32)})))
    tied = checkpoint(tmp_path / "tied", "qwen2", tied=True)
    with_head = load_file(tied / "model.safetensors") | {"lm_head.weight": np.zeros((96, 32), np.float32)}
    save_file(with_head, tied / "model.safetensors")
    load(tied)


def test_wrong_files_are_named(tmp_path):
    folder = broken(tmp_path, lambda t: None)
    data = (folder / "model.safetensors").read_bytes()
    for cut in (data[:-100], data[:50], b""):
        (folder / "model.safetensors").write_bytes(cut)
        with pytest.raises(InputError, match=r"model\.safetensors is not a complete"):
            load(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}))
    with pytest.raises(InputError, match=r"has no model-00002-of-00002\.safetensors"):
        load(folder)
    index.write_text("[]")
    with pytest.raises(InputError, match="not an index"):
        load(folder)
    index.unlink()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled"):
        load(folder)


def test_layers_in_two_stacks_are_loaded_and_exported_bit_for_bit(tmp_path):
    source = checkpoint(tmp_path / "source", "llama", tied=False, num_hidden_layers=4)
    family, model, _ = build(source)
    whole, names = load(source), [w.ours for w in family.weights(model.config)]
    upper = range(1, model.config.layers)
    top = load_params(source, model, family, mesh_of(), only=[name for name in names if "layers." in name], layers=upper)[
        "layers"
    ]
    jax.tree.map(lambda part, x: np.testing.assert_array_equal(part, x[1:]), top, whole["layers"])
    trained = {"top_layers": jax.tree.map(lambda x: x + 1, top)}
    report = save(trained, tmp_path / "out", source)
    before, after = tensors(source), tensors(tmp_path / "out")
    for name in before:
        frozen = ".layers." not in name or ".layers.0." in name
        np.testing.assert_array_equal(after[name], before[name] if frozen else before[name] + 1, err_msg=name)
    assert report.changed_weights == sum(x.size for name, x in before.items() if (after[name] != x).any())
