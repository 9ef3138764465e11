import csv
import json
import re
import sys
from collections import Counter

import pytest

from mpo_jax.data import language
from mpo_jax.data.language import UNKNOWN, detect, vote
from mpo_jax.data.rows import read_rows

SAMPLES = {
    "ar": "هذا نص قصير", "bn": "এটি একটি ছোট লেখা", "zh": "这是一段短文字", "ja": "これは短い文章です", "ko": "이것은 짧은 글이다",
    "th": "นี่คือข้อความสั้น", "te": "ఇది చిన్న వచనం", "hi": "यह एक छोटा पाठ है", "ru": "это короткий текст", 
    "uk": "це короткий текст їхній",
    "he": "זה טקסט קצר", "ta": "இது ஒரு சிறிய உரை", "el": "αυτό είναι ένα κείμενο", "fa": "این یک متن کوتاه است که می‌گوید",
    "ur": "یہ ایک چھوٹا سا متن ہے", "en": "this is a short text", "sw": "hii ni habari ya mtu huyo", 
    "vi": "đây là một văn bản ngắn",
    "it": "questo è il testo della città", "id": "ini adalah teks yang tidak panjang", "jv": "iki tulisan sing ora dawa",
    "yo": "gbogbo ènìyàn ni a bí ní òmìnira", "zu": "wonke umuntu unelungelo lokuphila",
}  # fmt: skip


@pytest.mark.parametrize("code", SAMPLES)
def test_a_sentence_of_each_language(code):
    assert detect(SAMPLES[code]).language == code


def test_digits_and_punctuation_say_nothing():
    assert detect("12345 !!! ??? --- 67890 한국어").language == "ko"
    for text in ("", "42", "12:30, 5 % (7)!", "<b>&#39;</b>", "xqzt vrrk", "def f(x): return x + 1", "la", "ok"):
        assert detect(text).language == UNKNOWN, text


def test_most_of_a_text_decides():
    assert detect("한국어 문장 속의 word 하나").language == "ko"
    assert detect("漢字とかな交じり").language == "ja"
    assert detect("This is a sentence that quotes 한국어.").language == "en"


def test_a_dialect_is_its_language():
    """Cantonese and Egyptian Arabic are classes of the classifier without a code of two letters."""
    assert detect("佢哋喺邊度食飯呀").language == "zh"
    assert detect("انت عايز ايه دلوقتي").language == "ar"


def test_texts_vote_and_the_other_sides_language_is_the_last_resort():
    assert vote(["질문", "what is it", "대답"]) == "ko"
    assert vote(["질문", "what is it", "that is it"], unlike="en") == "ko"
    assert vote(["what is it", "that is it"], unlike="en") == "en"
    assert vote(["this is it", "한국어"]) == "ko", "the surest of equal votes"
    assert vote(["", "42"]) == UNKNOWN


def test_rows_that_name_their_languages_do_not_load_the_classifier(tmp_path, monkeypatch):
    side = {"prompt": "a", "chosen": "b", "rejected": "c"}
    named = {"source": {"language": "en", **side}, "target": {"language": "sw", **side}}
    path = tmp_path / "rows.jsonl"
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)  # importing it fails
    language._identifier.cache_clear()
    language._known.clear()
    path.write_text(json.dumps(named))
    assert read_rows(path)[0].language_method == "given"
    path.write_text(json.dumps(named | {"target": side}))
    with pytest.raises(ImportError):
        read_rows(path)


def test_texts_together_are_judged_as_the_package_judges_each():
    """Of every length, so that some end while others go on; in capitals, which are read as small letters; without a feature."""
    texts = [text[:count] for text in SAMPLES.values() for count in range(len(text) + 1)]
    texts += [" ".join([text.upper(), *SAMPLES.values()][:count]) for text in SAMPLES.values() for count in (1, 3)]
    language._known.clear()
    language.detect_all(texts)
    for text in texts:
        code, probability = language._identifier().classify(text)
        found = detect(text)
        assert found.probability == pytest.approx(probability, abs=1e-3), text
        assert found.language == (code if probability >= language.SURE and code != language.NO_LANGUAGE else UNKNOWN), text


def test_more_texts_than_are_remembered(monkeypatch):
    monkeypatch.setattr(language, "KNOWN", 4)
    language._known.clear()
    texts = [text for text in SAMPLES.values() for _ in (0, 1)]
    for text, code in zip(texts, [code for code in SAMPLES for _ in (0, 1)], strict=True):
        assert detect(text).language == code
        assert len(language._known) <= 8
    for asked in (texts, iter(texts)):
        language._known.pop(texts[-1])  # so that there is something new, and room must be made
        language.detect_all(asked)
        assert [language._known[text].language for text in SAMPLES.values()] == list(SAMPLES)


def _check(code, texts, right, wrong):
    """At least a share of `right` is recognised, and no more than `wrong` is called another language."""
    found = Counter(detect(text).language for text in texts)
    assert found[code] >= right * len(texts), (code, found.most_common(3))
    assert len(texts) - found[code] - found[UNKNOWN] <= wrong * len(texts), (code, found.most_common(3))


def test_accuracy_on_prompts_in_ten_languages(shared):
    with open(shared / "data/multijail/MultiJail.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for code in ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv"):
        _check(code, [row[code] for row in rows], *{"jv": (0.92, 0.03)}.get(code, (0.99, 0.0)))


def test_accuracy_on_short_sentences(shared):
    codes = dict(
        ara="ar", ben="bn", cmn="zh", deu="de", fra="fr", hin="hi", ita="it", jav="jv", jpn="ja", kor="ko", rus="ru", spa="es",
        swh="sw", tel="te", tha="th", vie="vi",
    )  # fmt: skip
    # half a dozen words each, with close relatives
    floors = {
        "bn": (0.93, 0.07),
        "it": (0.93, 0.01),
        "jv": (0.92, 0.03),
        "ru": (0.92, 0.05),
        "es": (0.9, 0.04),
        "sw": (0.78, 0.04),
    }
    for name, code in codes.items():
        lines = (shared / f"data/parallel_text/tatoeba/tatoeba.{name}-eng.{name}").read_text(encoding="utf-8").splitlines()
        _check(code, lines, *floors.get(code, (0.98, 0.01)))


def test_every_language_of_the_declaration_of_human_rights(shared):
    codes = dict(
        arb="ar", ben="bn", cmn_hans="zh", deu_1996="de", eng="en", fra="fr", hin="hi", ita="it", jav="jv", jpn="ja", kor="ko",
        rus="ru", spa="es", swh="sw", tel="te", tha="th", urd="ur", vie="vi", yor="yo", zul="zu",
    )  # fmt: skip
    for name, code in codes.items():
        text = (shared / f"data/parallel_text/udhr/udhr_{name}.xml").read_text(encoding="utf-8")
        _check(code, [p for p in re.findall(r"<para>(.*?)</para>", text, re.S) if len(p) > 40], 0.96, 0.04)
