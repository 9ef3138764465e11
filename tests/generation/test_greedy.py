"""Greedy answers are transformers' own, token for token: stored ones everywhere, and live ones where torch is installed."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spelled import Spelled, request

from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.devices.sharding import make_generation_mesh
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.engine import Engine
from mpo_jax.generation.weights import placed
from mpo_jax.models.families.registry import FAMILIES, build

FIXTURES = Path(__file__).parent.parent / "fixtures"
LIMITS = (1, 64)


def written(folder: Path, prompts, limit: int, stop, *, batch_size: int = 16) -> list[list[int]]:
    family, model, _ = build(folder)
    mesh = make_generation_mesh(width=1, tensor=1, devices=jax.devices()[:1])
    params = placed(model, load_params(folder, model, family, mesh), mesh, jnp.float32, consume=True)
    engine = Engine(model, params, mesh, Spelled(stop), Decoding(max_new_tokens=limit), batch_size=batch_size, known={})
    requests = [request(str(number), tokens) for number, tokens in enumerate(prompts)]
    found = {asked.prompt.id: answer for asked, answer in engine.respond(requests)}
    assert all((answer.tokens[-1] in stop) == (answer.stopped == "end") for answer in found.values())
    return [list(found[asked.prompt.id].tokens) for asked in requests]


def rows(filled_up: np.ndarray) -> list[list[int]]:
    return [[int(token) for token in row if token >= 0] for row in filled_up]


@pytest.mark.parametrize("name", FAMILIES)
def test_stored_answers_of_transformers(name):
    stored = np.load(FIXTURES / name / "greedy.npz")
    stop = stored["stop"].tolist()
    for limit in LIMITS:
        expected = rows(stored[f"answers_{limit}"])
        assert written(FIXTURES / name, rows(stored["prompts"]), limit, stop) == expected
    assert {answer[-1] for answer in expected} >= set(stop), "every end token ends an answer"
    assert any(len(answer) == 64 for answer in expected)


FIRST = ("llama", "gemma2", "qwen2")  # the others have their stored answers in every run of the tests


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES])
def test_live_answers_of_transformers(name, tied, tmp_path):
    pytest.importorskip("torch")
    import hf_models

    model = hf_models.random(name, tied, seed=5)
    model.save_pretrained(tmp_path)
    prompts = hf_models.prompts(seed=3)
    stop = hf_models.stops(hf_models.greedy(model, prompts, 64, []))
    for limit in LIMITS:
        expected = hf_models.greedy(model, prompts, limit, stop)
        assert written(tmp_path, prompts, limit, stop, batch_size=24) == expected
    assert {answer[-1] for answer in expected} >= set(stop)
