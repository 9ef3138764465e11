"""Taps read what transformers computes, on any mesh, and are not there where nobody reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.registry import FAMILIES, build
from mpo_jax.models.taps import SITES
from mpo_jax.types import Packed

ALL = dict.fromkeys(SITES, lambda x_STX: x_STX)
ONE_BY_ONE = jax.jit(lambda model, params, packed: model.tapped(params, packed, ALL), static_argnums=0)


def tokens(S: int, T: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 96, (S, T)).astype(np.int32)


def packed(tokens_ST, segment_ST=None, position_ST=None) -> Packed:
    """One sequence a row, unless segments and positions say otherwise."""
    S, T = tokens_ST.shape
    segment_ST = np.ones((S, T), np.int32) if segment_ST is None else segment_ST
    position_ST = np.tile(np.arange(T, dtype=np.int32), (S, 1)) if position_ST is None else position_ST
    return Packed(tokens_ST, position_ST, segment_ST, segment_ST, *(np.zeros((S, 0), np.int32),) * 5)


def of_transformers(hf, ids, mask):
    """Site -> [L, S, T, width], by transformers' own hidden states and by hooks."""
    import torch

    found = {site: [] for site in ("mlp_input", "gate", "up")}
    for layer in hf.model.layers:
        layer.mlp.register_forward_hook(lambda _, given, out: found["mlp_input"].append(given[0]))
        layer.mlp.gate_proj.register_forward_hook(lambda _, given, out: found["gate"].append(out))
        layer.mlp.up_proj.register_forward_hook(lambda _, given, out: found["up"].append(out))
    residual = []
    for layer in hf.model.layers:
        layer.register_forward_hook(lambda _, given, out: residual.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        hf(torch.tensor(ids).long(), attention_mask=torch.tensor(mask))
    return {site: torch.stack(values).numpy() for site, values in found.items()} | {"residual": torch.stack(residual).numpy()}


@pytest.mark.parametrize("name", FAMILIES)
def test_they_are_what_transformers_computes(name, tmp_path):
    pytest.importorskip("torch", reason="needs torch: pip install torch")
    import hf_models

    hf = hf_models.random(name, tied=True)
    hf.save_pretrained(tmp_path)
    lengths, T = [24, 17], 24
    ids, mask = tokens(2, T), (np.arange(T)[None] < np.array(lengths)[:, None]).astype(np.int32)
    expected = of_transformers(hf, ids, mask)
    family, model, _ = build(tmp_path)
    params = load_params(tmp_path, model, family, tiny.mesh())
    # Both sequences in one packed row.
    row = np.concatenate([ids[i, :n] for i, n in enumerate(lengths)])[None]
    segment = np.repeat([1, 2], lengths)[None].astype(np.int32)
    position = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])[None]
    hidden, found = ONE_BY_ONE(model, params, packed(row, segment, position))
    assert found.keys() == expected.keys()
    for site, x_LSTX in found.items():
        for i, part in enumerate(np.split(np.asarray(x_LSTX)[:, 0], [lengths[0]], axis=1)):
            theirs = expected[site][:, i, : lengths[i]]
            np.testing.assert_allclose(part, theirs, rtol=0, atol=1e-5 * max(1.0, np.abs(theirs).max()), err_msg=site)
    np.testing.assert_array_equal(hidden, jax.jit(model.hidden)(params, packed(row, segment, position)))


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (1, 1, 2), (2, 2, 2)], ids=str)
def test_a_mesh_reads_what_one_device_reads(shape):
    model = tiny.model()
    params, _ = tiny.two_params(model)
    row = packed(tokens(8, 12))
    mean = {site: lambda x_STX: x_STX.mean(axis=1) for site in SITES}
    _, expected = jax.jit(lambda params: model.tapped(params, row, mean))(params)
    mesh = tiny.mesh(*shape)
    with jax.set_mesh(mesh):
        _, found = jax.jit(lambda params: model.tapped(params, row, mean))(tiny.place(model, params, mesh))
    for site in SITES:
        assert found[site].shape[:2] == (model.config.layers, 8)
        np.testing.assert_allclose(found[site], expected[site], atol=1e-5)


def test_a_gradient_flows_through_what_is_read():
    """The first layer's state depends on the first layer's weights alone."""
    model = tiny.model()
    params, _ = tiny.two_params(model)
    row = packed(tokens(2, 8))

    def first(params):
        return jnp.sum(model.tapped(params, row, {"residual": lambda x_STD: x_STD[:, -1]})[1]["residual"][0] ** 2)

    gradient = jax.jit(jax.grad(first))(params)["layers"]["mlp"]["up"]
    assert np.abs(gradient[0]).max() > 0 and np.abs(gradient[1:]).max() == 0


def test_what_nobody_reads_is_not_in_the_program():
    model = Model(tiny.model().config, remat="none")
    params, _ = tiny.two_params(model)
    row = packed(tokens(2, 8))
    plain = jax.jit(model.hidden).lower(params, row).as_text()
    width = model.config.ffn
    read = {"gate": lambda x_STF: x_STF[:, -1]}
    tapped = jax.jit(lambda params: model.tapped(params, row, read)).lower(params).as_text()
    kept = f"tensor<{model.config.layers}x2x{width}xf32>"
    assert kept in tapped and kept not in plain
