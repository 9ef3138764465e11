import csv
import re
from collections import Counter

import pytest

from mpo_jax.data.language import detect, vote

SAMPLES = {
    "ar": "هذا نص قصير", "bn": "এটি একটি ছোট লেখা", "zh": "这是一段短文字", "ja": "これは短い文章です", "ko": "이것은 짧은 글이다",
    "th": "นี่คือข้อความสั้น", "te": "ఇది చిన్న వచనం", "hi": "यह एक छोटा पाठ है", "ru": "это короткий текст", 
    "uk": "це короткий текст їхній",
    "he": "זה טקסט קצר", "ta": "இது ஒரு சிறிய உரை", "el": "αυτό είναι ένα κείμενο", "fa": "این یک متن کوتاه است که می‌گوید",
    "ur": "یہ ایک چھوٹا سا متن ہے", "en": "this is a short text", "sw": "hii ni habari ya mtu huyo", 
    "vi": "đây là một văn bản ngắn",
    "it": "questo è il testo della città", "id": "ini adalah teks yang tidak panjang", "jv": "iki tulisan sing ora dawa",
}  # fmt: skip


@pytest.mark.parametrize("language", SAMPLES)
def test_a_sentence_of_each_language(language):
    assert detect(SAMPLES[language]).language == language


def test_digits_and_punctuation_do_not_vote():
    assert detect("12345 !!! ??? --- 67890 한국어").language == "ko"
    assert detect("12:30, 5 % (7)!") == ("und", "none")
    assert detect("") == ("und", "none")


def test_the_method_says_what_speaks_for_a_language():
    assert detect("한국어").method == "script"
    assert detect("what is it").method == "stop-words"
    assert detect("xqzt vrrk") == ("und", "none")


def test_the_majority_of_letters_decides_within_a_text():
    assert detect("한국어 문장 속의 word 하나").language == "ko"
    assert detect("漢字とかな交じり").language == "ja"
    assert detect("全部漢字 の").language == "ja"


def test_texts_vote_and_the_other_sides_language_is_the_last_resort():
    assert vote(["질문", "what is it", "대답"]).language == "ko"
    assert vote(["질문", "what is it", "that is it"], unlike="en").language == "ko"
    assert vote(["what is it", "that is it"], unlike="en").language == "en"
    assert vote(["this is it", "한국어"]).language == "ko"
    assert vote(["", "42"]) == ("und", "none")


def test_equal_evidence_decides_nothing():
    assert detect("la").language == "und"
    assert detect("la casa la").language == "es"


def _check(language, texts, floor):
    """At least a share of `floor` is recognised; what is not is left undetermined, not called another language."""
    found = Counter(detect(text).language for text in texts)
    assert found[language] >= floor * len(texts), (language, found.most_common(3))
    wrong = len(texts) - found[language] - found["und"]
    assert wrong <= 0.03 * len(texts), (language, found.most_common(3))


def test_accuracy_on_prompts_in_ten_languages(shared):
    with open(shared / "data/multijail/MultiJail.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    floor = {"it": 0.95, "sw": 0.93, "jv": 0.8}  # Latin script, no accents to help: stop words of one sentence
    for language in ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv"):
        _check(language, [row[language] for row in rows], floor.get(language, 0.98))


def test_accuracy_on_short_sentences(shared):
    codes = dict(
        ara="ar", ben="bn", cmn="zh", deu="de", fra="fr", hin="hi", ita="it", jav="jv", jpn="ja", kor="ko", rus="ru", spa="es",
        swh="sw", tel="te", tha="th", vie="vi",
    )  # fmt: skip
    floor = {"de": 0.92, "fr": 0.88, "es": 0.75, "it": 0.75, "jv": 0.65, "sw": 0.5, "vi": 0.95}  # half a dozen words each
    for code, language in codes.items():
        lines = (shared / f"data/parallel_text/tatoeba/tatoeba.{code}-eng.{code}").read_text(encoding="utf-8").splitlines()
        _check(language, lines, floor.get(language, 0.98))


def test_every_language_of_the_declaration_of_human_rights(shared):
    iso = dict(
        arb="ar", ben="bn", cmn_hans="zh", deu_1996="de", eng="en", fra="fr", hin="hi", ita="it", jav="jv", jpn="ja", kor="ko",
        rus="ru", spa="es", swh="sw", tel="te", tha="th", urd="ur", vie="vi", yor="yo", zul="zu",
    )  # fmt: skip
    for name, language in iso.items():
        text = (shared / f"data/parallel_text/udhr/udhr_{name}.xml").read_text(encoding="utf-8")
        paragraphs = [p for p in re.findall(r"<para>(.*?)</para>", text, re.S) if len(p) > 40]
        _check(language, paragraphs, 0.9)
