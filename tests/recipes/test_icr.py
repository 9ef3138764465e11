"""What two models make of samples: prompts that they read, tokens that count, and models that do not fit together."""

import json
import operator

import jax
import numpy as np
import pytest
import scripted
from recipe_runs import other_model
from scripted import Voice

from mpo_jax.data.rows import PairText, Row
from mpo_jax.devices.sharding import MeshConfig, make_mesh
from mpo_jax.errors import InputError
from mpo_jax.evaluation.model_gaps import gaps_of
from mpo_jax.evaluation.usefulness.likelihoods import Continuation, Likelihoods
from mpo_jax.recipes import chunks, rewards
from mpo_jax.recipes.icr import PREFIX, Icr
from mpo_jax.recipes.own_model import OnDevices
from mpo_jax.recipes.run import carry_out

# Samples of a prompt, and their rewards.
SAMPLES = {"en": ("aa", "bbbb", "cc"), "sw": ("dd", "ee", "ff")}
REWARD = {"aa": 1.0, "bbbb": 2.0, "cc": 0.0, "dd": 0.0, "ee": -1.0, "ff": 5.0}


@pytest.fixture
def stub(monkeypatch):
    """Scores instead of models; `read`: what the two of them read."""
    read = []

    def write_logps(path, model, asked, *, shift):
        read.extend(asked)
        value = lambda answer: REWARD[answer] if "numerator" in path.name else 0.0  # noqa: E731
        return chunks.compute(path, {}, asked, lambda part: [value(answer) for _, answer in part])

    monkeypatch.setattr(rewards, "write_logps", write_logps)
    monkeypatch.setattr(rewards, "check_vocabularies", lambda *models: None)
    return read


def made(folder, recipe, says=None):
    voice = Voice(says or (lambda request: SAMPLES[request.prompt.language][request.sample]))
    build = scripted.build(folder, voice, sources=scripted.SOURCES[:1], load=OnDevices)
    carry_out("icr", recipe, build, models={})
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def icr(**more):
    return Icr(**{"samples": 3, "numerator": "a", "denominator": "b", **more})


def test_the_best_is_chosen_and_the_worst_rejected_in_every_language(stub, tmp_path):
    rows = made(tmp_path / "out", icr(length_control=False))
    assert rows == [
        {"id": "tea-en", "target": {"language": "en", "prompt": "How do I make tea?", "chosen": "bbbb", "rejected": "cc"}},
        {"id": "tea-sw", "target": {"language": "sw", "prompt": "[sw] How do I make tea?", "chosen": "ff", "rejected": "ee"}},
    ]
    prefix = PREFIX.format(language="Swahili")
    assert ("How do I make tea?", "aa") in stub and (f"{prefix}How do I make tea?", "dd") in stub
    assert prefix == (
        "Please answer the following instruction using only Swahili, unless explicitly instructed to respond in a different "
        "language.\n\n"
    )


def test_length_control_takes_the_shorter_one_where_that_evens_lengths_out(stub, tmp_path):
    """2 - 4 a meets 1 - 2 a at a = 0.5, where the first of equals counts; best and worst are equally long."""
    rows = made(tmp_path / "out", icr())
    assert rows[0]["target"]["chosen"] == "aa"
    origins = [json.loads(line) for line in (tmp_path / "out" / "origins.jsonl").read_text().splitlines()]
    assert origins[0] == {
        "id": "tea-en", "prompt": "tea", "samples": [0, 2], "reward": [1.0, 0.0], "characters": [2, 2], "alpha": 0.5
    }  # fmt: skip
    assert origins[1]["alpha"] == 0.0


def test_the_dominant_pair_can_be_the_source_side(stub, tmp_path):
    (row,) = made(tmp_path / "out", icr(source=True, length_control=False))
    assert row["id"] == "tea-sw" and row["source"]["chosen"] == "bbbb" and row["target"]["chosen"] == "ff"


def test_other_rewards_read_other_prompts(stub, tmp_path):
    made(tmp_path / "own", icr(reward="multilingual"))
    assert {prompt for prompt, answer in stub if answer == "dd"} == {"[sw] How do I make tea?"}
    stub.clear()

    def says(request):
        text = request.messages[0].content
        if not text.startswith("Please translate"):
            return SAMPLES[request.prompt.language][request.sample]
        return {"dd": "aa</translated>", "ee": "never ends", "ff": "cc</translated>"}[
            text.split(":\n\n<sentence>\n")[1].split("\n")[0]
        ]

    rows = made(tmp_path / "translated", icr(reward="translated", length_control=False), says)
    assert rows[1]["target"] == {"language": "sw", "prompt": "[sw] How do I make tea?", "chosen": "dd", "rejected": "ff"}
    assert {prompt for prompt, _ in stub} == {"How do I make tea?"}


def test_a_log_probability_is_that_of_training_and_the_shifted_one_lacks_the_first_token(world, tmp_path):
    model = OnDevices(str(world / "model"), template="hf", dtype="float32")
    asked = [("Is it warm?", "Very."), ("Is it warm?", "No, not at all.")]
    whole, rest, first = {}, {}, rewards.continuations(model, asked)
    for shift, found in ((False, whole), (True, rest)):
        rewards.write_logps(tmp_path / f"{shift}.jsonl", model, asked, shift=shift)
        found.update(chunks.read(tmp_path / f"{shift}.jsonl"))
    keys = [chunks.key_of(one) for one in asked]
    row = Row("0", None, PairText("en", "Is it warm?", "Very.", "No, not at all."), "given")
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        options = {"batch_size": 8, "template": "hf", "max_length": 64, "dtype": "float32"}
        (gap,) = gaps_of(model.name, [row], operator.attrgetter("gap_B"), mesh=mesh, **options)
    np.testing.assert_allclose(whole[keys[0]] - whole[keys[1]], gap.target_gap, rtol=1e-4)
    opening = [Continuation(one.context, one.text[:1]) for one in first]
    opened = [found.logp for found in Likelihoods(model.engine)(opening)]
    np.testing.assert_allclose([whole[key] - rest[key] for key in keys], opened, rtol=1e-4)


def test_models_of_other_vocabularies_give_no_reward(world, tmp_path):
    other = other_model(world, tmp_path / "other")
    models = [OnDevices(str(path), template="hf", dtype="float32") for path in (world / "model", other)]
    rewards.check_vocabularies(*models)
    path = other / "tokenizer.json"
    known = json.loads(path.read_text())
    vocabulary = known["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(known))
    with pytest.raises(
        InputError, match=r"have different vocabularies \(the token 'a' is \d+ in the first and \d+ in the second\)"
    ):
        rewards.check_vocabularies(models[0], OnDevices(str(other), template="hf", dtype="float32"))


def test_what_a_reward_needs(tmp_path):
    with pytest.raises(InputError, match="A reward needs two models: give --denominator"):
        made(tmp_path / "a", Icr(samples=3))
    with pytest.raises(InputError, match="give --numerator, a folder with the model that answers"):
        made(tmp_path / "b", Icr(samples=3, denominator="b"))
    with pytest.raises(InputError, match="samples=1 must be at least 2"):
        Icr(samples=1)
