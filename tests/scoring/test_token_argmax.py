import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mpo_jax.devices.sharding import make_generation_mesh
from mpo_jax.scoring import token_logprob
from mpo_jax.scoring.token_argmax import token_argmaxes

S, A, D, V = 4, 6, 16, 96


def arrays(ties: bool = False):
    random = np.random.default_rng(0)
    h_SAD, unembed_VD = random.normal(size=(S, A, D)).astype(np.float32), random.normal(size=(V, D)).astype(np.float32)
    if ties:  # every token has twins in other blocks and on other devices
        unembed_VD[V // 2 :] = unembed_VD[: V // 2]
        unembed_VD[V // 4 : V // 2] = unembed_VD[: V // 4]
    return h_SAD, unembed_VD


def by_hand(h_SAD, unembed_VD, softcap):
    logits_SAV = jnp.einsum("sad,vd->sav", h_SAD, unembed_VD)
    return jnp.argmax(logits_SAV if softcap is None else softcap * jnp.tanh(logits_SAV / softcap), axis=-1)


@pytest.mark.parametrize("ties", [False, True], ids=["apart", "ties"])
@pytest.mark.parametrize(("softcap", "block"), [(None, 512), (None, 40), (20.0, 40)], ids=["one block", "three", "capped"])
def test_blockwise_is_the_argmax_of_all_logits(softcap, block, ties, monkeypatch):
    monkeypatch.setattr(token_logprob, "BLOCK", 1)
    monkeypatch.setattr(token_logprob, "SMALLEST_BLOCK", block)
    found = token_argmaxes(*arrays(ties), softcap)
    np.testing.assert_array_equal(found, by_hand(*arrays(ties), softcap))
    assert found.dtype == jnp.int32 and len(np.unique(found)) > 5


@pytest.mark.parametrize("ties", [False, True], ids=["apart", "ties"])
@pytest.mark.parametrize(("width", "tensor"), [(1, 8), (2, 2), (4, 2)])
def test_split_over_devices(width, tensor, ties):
    h_SAD, unembed_VD = arrays(ties)
    generation = make_generation_mesh(width=width, tensor=tensor, devices=jax.devices())
    for mesh in (generation, tiny.mesh(2, 2, 2)):
        with jax.set_mesh(mesh):
            found = jax.jit(lambda h, w: token_argmaxes(h, w, None))(h_SAD, unembed_VD)
        np.testing.assert_array_equal(found, by_hand(h_SAD, unembed_VD, None))
