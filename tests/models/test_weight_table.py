"""The weight tables: shapes, both directions, and slices that read no more than they need."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from mpo_jax.devices.sharding import MeshConfig, make_mesh, named
from mpo_jax.models import weight_table
from mpo_jax.models.decoder import DecoderConfig, Model
from mpo_jax.models.families.registry import FAMILIES, build
from mpo_jax.models.weight_table import Place, Weight, export_tree, gathered, in_order, leaf, places

FIXTURES = Path(__file__).parent.parent / "fixtures"
Q = Place(Weight("layers.attention.q", "{layer}.q", "(heads head_dim) embed"), ("embed", "heads", "head_dim"), (5, 4, 3))
O = Place(Weight("layers.attention.o", "{layer}.o", "embed (heads head_dim)"), ("heads", "head_dim", "embed"), (4, 3, 5))  # noqa: E741


def test_layout_gives_shapes_and_transposes():
    assert Q.hf_shape == (12, 5) and O.hf_shape == (5, 12)
    hf = np.arange(60).reshape(12, 5)
    ours = Q.import_tensor(hf)
    assert ours.shape == (5, 4, 3)
    assert ours[2, 3, 1] == hf[3 * 3 + 1, 2]
    back = Q.export_tensor(ours)
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, hf)


@pytest.mark.parametrize("place", [Q, O], ids=["q", "o"])
def test_slices_equal_slices_of_the_whole(place):
    hf = np.arange(60).reshape(place.hf_shape)
    whole, rng = place.import_tensor(hf), np.random.default_rng(0)
    for _ in range(50):
        index = tuple(slice(*sorted(rng.choice(n + 1, 2, replace=False))) for n in place.shape)
        np.testing.assert_array_equal(place.import_slice(hf, index), whole[index])


def test_a_slice_reads_only_what_covers_it():
    class Recorder:
        def __getitem__(self, index):
            self.index = index
            return np.zeros([s.stop - s.start for s in index])

    recorder = Recorder()
    Q.import_slice(recorder, (slice(0, 2), slice(1, 3), slice(None)))
    assert recorder.index == (slice(3, 9), slice(0, 2))


@pytest.mark.parametrize("name", FAMILIES)
def test_fixture_goes_through_the_tree_and_back_bit_for_bit(name):
    family, model, _ = build(FIXTURES / name)
    stored, table = load_file(FIXTURES / name / "model.safetensors"), family.weights(model.config)
    tree = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), model.abstract())
    for hf, place, layer in in_order(model, table):
        target = leaf(tree, place.weight.ours)
        (target if layer is None else target[layer])[...] = place.import_tensor(stored[hf])
    exported = dict(export_tree(tree, model, table))
    assert exported.keys() == stored.keys()
    for key, tensor in exported.items():
        assert tensor.flags.c_contiguous
        np.testing.assert_array_equal(tensor, stored[key])


def test_export_of_sharded_gradients_equals_export_of_host_arrays():
    family, model, _ = build(FIXTURES / "llama")
    abstract = model.abstract(make_mesh(MeshConfig(2, 2, 2)))
    rng = np.random.default_rng(0)
    host = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), abstract)
    placed = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), host, abstract)
    table = family.weights(model.config)
    for (a, x), (b, y) in zip(export_tree(host, model, table), export_tree(placed, model, table), strict=True):
        assert a == b
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("piece", [1, 200, 2**20], ids=["a row at a time", "several, the last ones again", "all at once"])
def test_what_several_hosts_hold_is_gathered_piece_by_piece(monkeypatch, piece):
    monkeypatch.setattr(weight_table, "PIECE", piece)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    for shape, axes in (((10, 6, 3), ("embed", "heads", None)), ((14, 8), ("vocab", "embed")), ((7,), ("norm",))):
        host = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        place = named(mesh, axes, shape, "x")
        np.testing.assert_array_equal(gathered(jax.device_put(host, place)), host)


def test_a_table_that_forgets_a_parameter_is_caught():
    family, model, _ = build(FIXTURES / "qwen2")
    table = family.weights(model.config)
    with pytest.raises(AssertionError, match="k_bias"):
        places(model, tuple(w for w in table if not w.ours.endswith("k_bias")))


def test_every_family_covers_tied_and_untied():
    for name, family in FAMILIES.items():
        config: DecoderConfig = build(FIXTURES / name)[1].config
        for tied in (False, True):
            one = dataclasses.replace(config, tied=tied)
            names = [hf for hf, _, _ in in_order(Model(one), family.weights(one))]
            assert ("lm_head.weight" in names) is not tied
            assert len(names) == len(set(names))
