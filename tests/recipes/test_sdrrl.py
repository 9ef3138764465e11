"""The model's own answers, translated, crossed and with words of another language."""

import json

import pytest
import scripted
from scripted import Voice

from mpo_jax.errors import InputError
from mpo_jax.recipes.code_switching import read_lexicon, switched
from mpo_jax.recipes.run import carry_out
from mpo_jax.recipes.sdrrl import Sdrrl


def made(folder, recipe, **more):
    build = scripted.build(folder, Voice(lambda request: f"answer {request.prompt.id}"), sources=scripted.SOURCES[:1], **more)
    carry_out("sdrrl", recipe, build, models={})
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert all(row["target"]["rejected"] == row["target"]["chosen"] for row in rows)
    return {row["id"]: (row["target"]["language"], row["target"]["prompt"], row["target"]["chosen"]) for row in rows}


def test_four_pairs_of_a_question(tmp_path):
    assert made(tmp_path / "out", Sdrrl()) == {
        "tea-en": ("en", "How do I make tea?", "answer tea"),
        "tea-sw": ("sw", "[sw] How do I make tea?", "[sw] answer tea"),
        "tea-sw-en": ("en", "[sw] How do I make tea?\n\nAnswer in English.", "answer tea"),
        "tea-en-sw": ("sw", "How do I make tea?\n\nAnswer in Swahili.", "[sw] answer tea"),
    }
    assert made(tmp_path / "plain", Sdrrl(cross=False)).keys() == {"tea-en", "tea-sw"}


def test_words_of_the_lexicon_are_replaced(tmp_path):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "en-sw.txt").write_text("tea chai\ntea majani\nmake\ttengeneza\n")
    found = made(tmp_path / "out", Sdrrl(cross=False, code_switch=1.0, lexicon=str(tmp_path / "words")))
    assert found["tea-sw-mixed"] == ("en", "How do I tengeneza chai?", "answer tea")


def test_about_the_share_of_words_is_replaced_and_the_same_ones_again():
    words = {f"w{n}": f"v{n}" for n in range(1000)}
    text = " ".join(words)
    mixed = switched(text, words, 0.3, "seed")
    assert 250 < sum(word.startswith("v") for word in mixed.split()) < 350
    assert mixed == switched(text, words, 0.3, "seed") != switched(text, words, 0.3, "other seed")


def test_what_code_switching_needs(tmp_path):
    with pytest.raises(InputError, match="code_switch and lexicon belong together"):
        Sdrrl(code_switch=0.5)
    with pytest.raises(InputError, match="must be between 0 and 1"):
        Sdrrl(code_switch=1.5, lexicon="words")
    with pytest.raises(InputError, match=r"en-sw.txt does not exist: give --lexicon"):
        read_lexicon(tmp_path, "en", "sw")
    (tmp_path / "en-sw.txt").write_text("tea chai\nmake\n")
    with pytest.raises(InputError, match=r"en-sw.txt, line 2: there must be a word and its translation"):
        read_lexicon(tmp_path, "en", "sw")
