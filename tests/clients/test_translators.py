"""A distinct text is translated once, English is left as it is, and a translation keeps the shape of its text."""

import dataclasses
import json
import types

import pytest

from mpo_jax.clients import languages
from mpo_jax.clients.asked import AskedModel
from mpo_jax.clients.translation_checks import findings
from mpo_jax.clients.translators import google, nllb, server
from mpo_jax.clients.translators.base import Text, Translation, Translator, translate, translations
from mpo_jax.clients.translators.registry import Given, translator
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.errors import InputError
from mpo_jax.generation.base import Request, Response

SWAHILI = "Habari ya asubuhi, rafiki yangu mpendwa. Leo tutapika chakula kizuri."
ENGLISH = "Good morning, my dear friend. Today we shall cook something nice."


class Upper:
    """Says in capitals what it is asked to translate; nothing of a text that holds 'kimya'."""

    shared = False
    settings = {"model": "upper"}  # noqa: RUF012

    def __init__(self):
        self.asked = []

    def respond(self, requests):
        for request in requests:
            text = request.messages[-1].content
            self.asked.append(text)
            if "kosa" in text:
                yield request, Response("", "error", None, None, error="down")
            else:
                yield request, Response("" if "kimya" in text else text.upper(), "end", None, None)


def upper(responder=None, known=None):
    responder = responder or Upper()
    return Translator("upper", "en", lambda text, source: (Message("user", text),), lambda: responder, known)


def test_each_distinct_text_is_asked_about_once(tmp_path):
    responder = Upper()
    texts = [
        Text("sw", SWAHILI),
        Text("sw", SWAHILI),
        Text("jv", SWAHILI),
        Text("sw", "kimya kimya kimya sana"),
        Text("sw", "kosa kubwa sana"),
    ]
    translate(texts, upper(responder), tmp_path)
    assert len(responder.asked) == 4
    found = translations(texts, upper(), tmp_path)
    assert found[texts[0]] == Translation(SWAHILI.upper())
    assert found[texts[3]] == Translation("", "an empty translation")
    assert found[texts[4]] == Translation("", "no translation: down")
    assert found.keys() == set(texts)
    translate(texts, upper(responder), tmp_path)
    assert responder.asked[4:] == ["kosa kubwa sana"], "an error is tried again"


def test_who_is_not_told_the_language_is_asked_once_in_all(tmp_path):
    responder = Upper()
    blind = dataclasses.replace(upper(responder), told=False)
    texts = [Text("sw", SWAHILI), Text("jv", SWAHILI)]
    translate(texts, blind, tmp_path)
    assert len(responder.asked) == 1
    assert translations(texts, blind, tmp_path) == {text: Translation(SWAHILI.upper()) for text in texts}
    assert not server.translator(Upper, "en", "m").told
    assert server.translator(Upper, "en", "m", "{source} {text}").told


def test_what_is_english_or_blank_is_left_as_it_is(tmp_path):
    responder = Upper()
    texts = [Text("sw", ENGLISH), Text("en", "habari"), Text("sw", " \n"), Text("sw", "")]
    assert translate(texts, upper(responder), tmp_path / "none") is None
    assert not responder.asked
    assert translations(texts, upper(), tmp_path / "none") == {t: Translation(t.text, translated=False) for t in texts}


def test_what_is_not_translated_yet_says_so(tmp_path):
    translate([Text("sw", SWAHILI)], upper(), tmp_path)
    text = Text("sw", SWAHILI + " Karibu.")
    assert translations([text], upper(), tmp_path)[text] == Translation("", "not translated yet")


def test_a_language_that_a_translator_does_not_know_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="'upper' does not know 'sw'"):
        translate([Text("sw", SWAHILI)], upper(known=frozenset({"bn"})), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "One. Two! Three?", "One.\n\nTwo\n  Three", "  led in", "你好。再见！「真的？」是。", "(A.) \"B.\" C", "no end", "", "\n",
        "কেমন আছ? ভালো। বেশ।", "a...  b", "x.y is 3.5", "tail. ", "\u2028odd. sep",
    ],
)  # fmt: skip
def test_pieces_put_together_are_the_text(text):
    parts = nllb.pieces(text)
    assert "".join(sentence + between for sentence, between in parts) == text


def test_a_text_is_cut_where_sentences_end():
    assert [s for s, _ in nllb.pieces("Mr A went. (He did.) \"So?\" Yes\nThen 3.5 more.")] == [
        "Mr A went.", "(He did.)", '"So?"', "Yes", "Then 3.5 more.",
    ]  # fmt: skip
    assert [s for s, _ in nllb.pieces("你好。「真的？」是。")] == ["你好。", "「真的？」", "是。", ""]


def answers(text, language="sw"):
    asked = []

    def sentences(wanted, source):
        asked.append((list(wanted), source))
        return [f"<{sentence.strip()}>" for sentence in wanted]

    request = Request(Prompt("a", language, (Message("user", text),)), 0, 0, (Message("user", text),), "k")
    ((_, response),) = nllb.Nllb(sentences, "en", {}).respond([request])
    return response.text, asked


def test_nllb_gets_sentences_and_line_breaks_stay():
    assert answers("Moja. Mbili!\n\n  Tatu\n") == ("<Moja.> <Mbili!>\n\n  <Tatu>\n", [(["Moja.", "Mbili!", "Tatu"], "swh_Latn")])
    assert answers("你好。再见。", "zh") == ("<你好。> <再见。>", [(["你好。", "再见。"], "zho_Hans")])


def test_nllb_without_its_model_or_package_is_one_sentence(tmp_path, monkeypatch):
    model = lambda folder: Given(AskedModel("translate", folder=folder))  # noqa: E731
    with pytest.raises(InputError, match="give --translate-dir"):
        translator("nllb", model(None))
    with pytest.raises(InputError, match="is no converted NLLB: run `ct2-transformers-converter"):
        translator("nllb", model(str(tmp_path)))
    (tmp_path / "model.bin").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "ctranslate2", None)
    made = translator("nllb", model(str(tmp_path)))
    with pytest.raises(InputError, match=r"pip install 'mpo_jax\[nllb\]'"):
        made.responder()


def test_google_is_asked_for_plain_text():
    calls = []

    def say(text, **how):
        calls.append(how)
        if text == "kosa":
            raise RuntimeError("quota\nused up")
        return {"translatedText": f"it's {text}"}

    requests = [Request(Prompt(t, "he", (Message("user", t),)), 0, 0, (Message("user", t),), t) for t in ("a", "kosa")]
    (_, good), (_, bad) = google.Google(types.SimpleNamespace(translate=say), "en").respond(requests)
    assert good.text == "it's a"
    assert (bad.stopped, bad.error) == ("error", "RuntimeError: quota used up")
    assert calls[0] == {"source_language": "iw", "target_language": "en", "format_": "text", "model": "nmt"}


def test_a_served_model_is_asked_in_one_pass(tmp_path):
    messages = server.translator(Upper, "en", "m").messages("say {text} and {target}", "sw")
    assert (
        messages[0].content
        == "Translate the following text into English. Output only the translation.\n\nsay {text} and {target}"
    )
    (tmp_path / "p.txt").write_text("From {source} to {target}: {text}")
    prompt = server.read_prompt(tmp_path / "p.txt")
    assert server.translator(Upper, "en", "m", prompt).messages("x", "sw")[0].content == "From Swahili to English: x"
    (tmp_path / "q.txt").write_text("Translate!")
    with pytest.raises(InputError, match=r"must have \{text\} once"):
        server.read_prompt(tmp_path / "q.txt")


@pytest.mark.parametrize(
    ("text", "translation", "found"),
    [
        (SWAHILI, ENGLISH, ()),
        (SWAHILI, SWAHILI, ("language", "copied")),
        (SWAHILI, "Guten Morgen, mein lieber Freund. Heute kochen wir etwas Schönes.", ("language",)),
        (SWAHILI, "Good day", ("length",)),
        (SWAHILI, "I'm sorry, I can't translate this text for you at all.", ("refused",)),
        ("Samahani, siwezi kukusaidia na jambo hilo.", "Sorry, I cannot help you with that matter.", ()),
        ("Ndiyo", "Yes", ()),
    ],
)
def test_what_is_odd_in_a_translation_is_found(text, translation, found):
    assert findings(Text("sw", text), Translation(translation), "en") == found


def test_an_empty_translation_is_found_and_a_failed_one_is_not():
    assert findings(Text("sw", SWAHILI), Translation("", "an empty translation"), "en") == ("emptied",)
    assert findings(Text("sw", SWAHILI), Translation("", "no translation: down"), "en") == ()
    assert findings(Text("sw", ENGLISH), Translation(ENGLISH, translated=False), "en") == ()


def test_codes_are_those_of_the_data_and_differ():
    table = languages.LANGUAGES.values()
    for name in ("code", "name", "nllb", "google"):
        assert len({getattr(language, name) for language in table}) == len(table)
    assert {
        "en",
        "zh",
        "it",
        "vi",
        "ar",
        "ko",
        "th",
        "bn",
        "sw",
        "jv",
        "ja",
        "de",
        "es",
        "fr",
        "ru",
        "te",
    } < languages.LANGUAGES.keys()
    with pytest.raises(InputError, match="'mul' is in no table of translators"):
        languages.language("mul")
    json.dumps([vars(language) for language in table])
