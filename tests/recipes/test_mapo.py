"""Samples are ranked by what a scorer makes of the dominant answers after them."""

import json
from types import SimpleNamespace

import pytest
import recipe_voices
import scripted
from fake_endpoint import Reply, served
from scripted import Voice

from mpo_jax.clients.translators import nllb
from mpo_jax.errors import InputError
from mpo_jax.recipes.alignment import Nllb, ServedAligner
from mpo_jax.recipes.mapo import Mapo
from mpo_jax.recipes.run import carry_out
from mpo_jax.recipes.sources import Source

SAMPLES = {"en": ("I cannot.", "Boil\nBoil", "Boil it.", "I cannot."), "sw": ("moja", "mbili", "tatu", "moja")}
# Nats a token of each reference after each sample.
ENTROPY = {("moja", "I cannot."): 2.0, ("moja", "Boil it."): 0.5, ("mbili", "I cannot."): 1.0, ("mbili", "Boil it."): 1.0}
ENTROPY |= {("tatu", "I cannot."): 0.25, ("tatu", "Boil it."): 4.0}


class Stub:
    """Two tokens a reference, which together have its entropy."""

    def __init__(self):
        self.asked = []
        self.settings = {"stub": True}

    def logps(self, pairs, language, into):
        self.asked += [(*pair, language, into) for pair in pairs]
        return [[-0.5 * ENTROPY[pair], -1.5 * ENTROPY[pair]] for pair in pairs]


def made(folder, recipe, samples=SAMPLES, aligner=None):
    voice = Voice(lambda request: samples[request.prompt.language][request.sample])
    stub = Stub()
    build = scripted.build(folder, voice, sources=scripted.SOURCES[:1], aligner=stub if aligner is None else aligner)
    carry_out("mapo", recipe, build, models={})
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()], stub


def test_the_best_aligned_sample_is_chosen(tmp_path):
    """moja (0.5 + 2) / 2 = 1.25, mbili 1, tatu (4 + 0.25) / 2 = 2.125. A reference that repeats a line is none."""
    (row,), stub = made(tmp_path / "out", Mapo(samples=4))
    assert row == {
        "id": "tea-sw",
        "target": {"language": "sw", "prompt": "[sw] How do I make tea?", "chosen": "tatu", "rejected": "mbili"},
    }
    assert sorted(stub.asked) == sorted((*pair, "sw", "en") for pair in ENTROPY)
    origin = json.loads((tmp_path / "out" / "origins.jsonl").read_text())
    assert origin == {"id": "tea-sw", "prompt": "tea", "samples": [2, 1], "score": [2.125, 1.0]}


def test_all_pairs_whose_scores_and_texts_differ(tmp_path):
    rows, _ = made(tmp_path / "out", Mapo(samples=4, pairs="all"))
    pairs = [(row["target"]["chosen"], row["target"]["rejected"]) for row in rows]
    assert pairs == [("tatu", "moja"), ("tatu", "moja"), ("tatu", "mbili"), ("moja", "mbili"), ("moja", "mbili")]


def test_only_refusals_are_references_and_the_data_give_the_source_side(tmp_path):
    """By the refusal alone: moja 0.5, mbili 1, tatu 4."""
    (row,), _ = made(tmp_path / "out", Mapo(samples=4, references="refusals", source=True))
    assert (row["target"]["chosen"], row["target"]["rejected"]) == ("tatu", "moja")
    assert (row["source"]["chosen"], row["source"]["rejected"]) == ("I cannot.", "Steal it.")
    assert Mapo(source=True).usable(Source("x", {"en": "?"})) == "no unsafe answer in the data"


def test_what_cannot_be_ranked_is_said(tmp_path):
    with pytest.raises(InputError, match=r"No row is left of 1 \(1: there are no refusals in en that can be used\)"):
        made(tmp_path / "a", Mapo(samples=4, references="refusals"), SAMPLES | {"en": ("Boil it.",) * 4})
    with pytest.raises(InputError, match="no sample is better aligned than another"):
        made(tmp_path / "b", Mapo(samples=4), SAMPLES | {"sw": ("mbili",) * 4})
    with pytest.raises(InputError, match="samples=1 must be at least 2"):
        Mapo(samples=1)
    voice = Voice(lambda request: "x")
    with pytest.raises(InputError, match="Who scores translations"):
        carry_out("mapo", Mapo(samples=2), scripted.build(tmp_path / "c", voice), models={})


def test_a_server_scores_the_words_of_the_meaning_alone():
    pytest.importorskip("openai", reason="a served model needs openai: pip install -r requirements-server.txt")
    with served(recipe_voices.say) as endpoint:
        (logps,) = ServedAligner(endpoint.url, "toy").logps([("Chai ni moto.", "The tea is hot.")], "sw", "en")
        (asked,) = endpoint.asked
        told = recipe_voices.worth(asked.body["prompt"]).body["choices"][0]["logprobs"]
    assert asked.body["prompt"].endswith("Chai ni moto.\n\nThe tea is hot.")
    assert told["tokens"][-5:] == ["The ", "tea ", "is ", "hot.", "more"]
    assert logps == told["token_logprobs"][-5:-1]


def test_a_server_that_tells_no_log_probabilities_is_a_sentence():
    pytest.importorskip("openai", reason="a served model needs openai: pip install -r requirements-server.txt")
    silent, refusing = (
        lambda asked: recipe_voices.spoken(asked, "x"),
        lambda asked: Reply({"error": {"message": "no"}}, status=400),
    )
    told = {silent: "tells no log-probabilities of a prompt", refusing: r"gives no scores \(.*400.*\): run the command again"}
    for behave, said in told.items():
        with served(behave) as endpoint, pytest.raises(InputError, match=said):
            ServedAligner(endpoint.url, "toy").logps([("a", "b")], "sw", "en")


def test_nllb_reads_languages_and_ends(tmp_path, monkeypatch):
    """As CTranslate2 wants them: it adds the end of the target itself."""
    (tmp_path / "model.bin").write_bytes(b"x")
    asked = []

    class Model:
        def score_batch(self, texts, meanings, **options):
            asked.extend(zip(texts, meanings, strict=True))
            return [SimpleNamespace(log_probs=[-1.0, -2.0]) for _ in texts]

    class Tokenizer:
        def __call__(self, text, **options):
            return {"input_ids": text.split()}

        def convert_ids_to_tokens(self, ids):
            return ids

    monkeypatch.setattr(nllb, "load", lambda folder: (Model(), Tokenizer()))
    assert Nllb(tmp_path).logps([("chai moto", "hot tea")], "sw", "en") == [[-1.0, -2.0]]
    assert asked == [(["swh_Latn", "chai", "moto", "</s>"], ["eng_Latn", "hot", "tea"])]
    with pytest.raises(InputError, match="is no converted NLLB"):
        _ = Nllb(tmp_path / "elsewhere").settings
