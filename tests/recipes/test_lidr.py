"""Both answers are translated by the model itself, and a translation without its closing tag takes the row with it."""

import json

import scripted
from scripted import LIMIT, SOURCES, Voice

from mpo_jax.recipes.lidr import Lidr
from mpo_jax.recipes.run import carry_out
from mpo_jax.recipes.self_translation import OPENING, PROMPT


def model(untagged=()):
    """Answers with the prompt's id, and translates into "<language: text>"."""

    def says(request):
        text = request.messages[-1].content
        if text.startswith("Please translate"):
            inner = text.split(":\n\n<sentence>\n", 1)[1].split("\n</sentence>")[0]
            done = f" <{request.prompt.language}: {inner}> "
            return done if any(word in text for word in untagged) else f"{done}\n</translated> and more"
        return f"{request.prompt.language} answer about {request.prompt.id}" + (LIMIT if request.prompt.id == "bike" else "")

    return Voice(says)


def made(folder, voice, recipe=None, drop=()):
    carry_out("lidr", recipe or Lidr(), scripted.build(folder, voice), models={}, drop=drop)
    return {row["id"]: row for row in map(json.loads, (folder / "rows.jsonl").read_text().splitlines())}


def test_the_dominant_answer_is_preferred_in_both_languages(tmp_path):
    voice = model()
    row = made(tmp_path / "out", voice)["tea-sw"]
    source = {"language": "en", "prompt": "How do I make tea?"}
    assert row["source"] == {**source, "chosen": "en answer about tea", "rejected": "<en: sw answer about tea>"}
    assert row["target"] == {
        "language": "sw",
        "prompt": "[sw] How do I make tea?",
        "chosen": "<sw: en answer about tea>",
        "rejected": "sw answer about tea",
    }
    assert [opening for _, opening in voice.decodings] == ["", OPENING]
    assert PROMPT.format(lang="Swahili", text="en answer about tea") in [one.messages[0].content for one in voice.asked]


def test_a_translation_without_its_closing_tag_drops_both_pairs(tmp_path):
    for word in ("en answer about tea", "sw answer about tea"):
        folder = tmp_path / word.replace(" ", "-")
        assert list(made(folder, model([word]))) == ["bike-sw"]
        (dropped,) = map(json.loads, (folder / "dropped.jsonl").read_text().splitlines())
        assert dropped == {"id": "tea", "language": "sw", "reason": "a self-translation without </translated>"}


def test_prompts_about_translation_keep_the_dominant_answer(tmp_path):
    (tmp_path / "ids.txt").write_text("bike\ntea\n")
    voice = model()
    rows = made(tmp_path / "out", voice, Lidr(about_translation=str(tmp_path / "ids.txt")))
    assert rows["tea-sw"]["target"]["chosen"] == "en answer about tea"
    assert sum("wrapped by" in one.messages[0].content for one in voice.asked) == len(SOURCES), "one direction only"


def test_unfinished_answers_can_be_dropped(tmp_path):
    assert list(made(tmp_path / "out", model(), drop=["unfinished"])) == ["tea-sw"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["dropped"] == {"--drop unfinished": {"sw": 1}} and manifest["drop"] == ["unfinished"]
