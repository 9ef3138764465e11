import dataclasses
import random
import re

import pytest
import toy_chat

from mpo_jax.data import flaws, language
from mpo_jax.data.audit import audit, warnings
from mpo_jax.data.chat import tokenize
from mpo_jax.data.flaws import DROPS, findings
from mpo_jax.data.refusals import opens_with_refusal
from mpo_jax.data.rows import PairText, Row

CLEAN = PairText("ko", "이것은 무엇입니까", "이것은 좋은 대답입니다.", "이것은 나쁜 대답입니다.")
SOURCE = PairText("en", "what is this", "this is a good answer", "this is a bad answer")
NOISE = {
    "prompt_in_another_language": {"prompt": "what is this"},
    "chosen_in_another_language": {"chosen": "what is this"},
    "rejected_in_another_language": {"rejected": "what is this"},
    "chosen_opens_with_refusal": {"chosen": "죄송하지만 그것은 어렵습니다"},
    "rejected_opens_with_refusal": {"rejected": "그것은 할 수 없습니다. 끝"},
    "chosen_mixes_languages": {
        "chosen": "이것은 좋은 대답입니다. This is how one makes a pot of tea at home. 이것은 좋은 대답입니다."
    },
    "rejected_ends_early": {"rejected": "이것은 나쁜 대답입니다. 이것은 나쁜 대답이"},
    "chosen_length_unlike_source": {"chosen": "네"},
    "html_entities": {"chosen": "이것은 &#39;대답&#39; 입니다."},
    "replacement_characters": {"prompt": "이것은 \ufffd 입니까"},
    "identical_to_source": {"chosen": SOURCE.chosen},
    "empty_prompts": {"prompt": " "},
    "one_word_rejected": {"rejected": "네"},
    "truncated_target": {"rejected": "긴 대답 " * 100},
}
# What such a row has beside.
ALSO = {
    "identical_to_source": ["chosen_in_another_language", "chosen_ends_early"],
    "one_word_rejected": ["rejected_length_unlike_source"],
    "truncated_target": ["rejected_ends_early", "rejected_length_unlike_source"],
}


def _audit(*targets):
    rows = [Row(str(i), SOURCE, target, "given") for i, target in enumerate(targets)]
    return audit(rows, tokenize(rows, toy_chat.tokenizer(), toy_chat.FORMAT, max_length=200))


@pytest.mark.parametrize("name", NOISE)
def test_each_kind_of_noise_is_counted_once(name):
    found = dataclasses.asdict(_audit(CLEAN, dataclasses.replace(CLEAN, **NOISE[name]))["ko"])
    expected = {"rows": 2, name: 1} | dict.fromkeys(ALSO.get(name, ()), 1)
    assert {key: count for key, count in found.items() if count} == expected


def test_duplicates_and_languages_are_counted_apart():
    found = _audit(CLEAN, CLEAN, dataclasses.replace(CLEAN, language="en", prompt=SOURCE.prompt))
    assert list(found) == ["en", "ko"]
    assert (found["ko"].rows, found["ko"].duplicates, found["en"].duplicates) == (2, 1, 0)
    assert found["en"].chosen_in_another_language == 1


def test_a_refusal_that_translation_lost_is_counted_where_the_source_refuses():
    refusing = dataclasses.replace(SOURCE, chosen="I cannot help with this.")
    rows = [Row(str(i), source, CLEAN, "given") for i, source in enumerate((SOURCE, refusing))]
    assert audit(rows)["ko"].chosen_lost_refusal == 1


def test_warnings_name_language_count_and_finding():
    assert warnings(_audit(*[dataclasses.replace(CLEAN, prompt=f"이것은 무엇입니까 {i}") for i in range(9)])) == []
    assert warnings(_audit(CLEAN, *[dataclasses.replace(CLEAN, prompt=f"이것은 무엇입니까 {i}") for i in range(8)], CLEAN)) == [
        "ko: 1 of 10 rows repeat an earlier one"
    ]


def test_every_rule_leaves_out_a_row_that_has_its_findings_and_no_clean_one():
    noise = NOISE | {"chosen_opens_otherwise": {}, "duplicates": {}}
    for rule, named in DROPS.items():
        for name in named & noise.keys():
            rows = [Row(str(i), SOURCE, dataclasses.replace(CLEAN, **noise[name]), "given") for i in range(2)]
            _, second = findings(rows)
            assert named & {*second}, rule
    [clean] = findings([Row("0", SOURCE, CLEAN, "given")])
    assert [rule for rule, named in DROPS.items() if named & {*clean}] == ["no_refusal"]


@pytest.mark.parametrize(
    ("text", "language", "refuses"),
    [
        ("I'm sorry, but no.", "en", True),
        ("I cannot do that", "sw", True),
        ("Here is how. I cannot say more.", "en", False),
        ("Samahani, siwezi kusaidia.", "sw", True),
        ("申し訳ありませんが", "ja", True),
        ("Of course", "xx", False),
        (" \n" + "İ" * 70 + " I cannot", "en", False),
        ("so " * 24 + "I CAN'T", "en", True),
        ("so " * 25 + "I CAN'T", "en", False),
    ],
)
def test_refusals(text, language, refuses):
    assert opens_with_refusal(text, language) is refuses


def test_sentences_end_after_marks_and_at_line_ends():
    """As in the one expression that says so, on texts of nothing but what matters."""
    defined = re.compile(r"(?<=[.!?।؟])\s+|(?<=[。！？])|\n+")
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choices(("a", ".", "!", "؟", "。", " ", "\u3000", "\n", "a" * 40), k=draw.randrange(12)))
        expected = tuple(part for part in defined.split(text) if len(part) >= 40)
        assert flaws._long_sentences(text) == expected, repr(text)


@pytest.mark.parametrize(
    ("text", "early"),
    [("a" * 20, True), ("a" * 19 + ".", False), ("a" * 19 + ". \u3000\n", False), ("a" * 19, False), (" " * 30, False)],
)
def test_ends(text, early):
    assert flaws.ends_early(text, "en") is early
    assert not flaws.ends_early(text, "th")


def test_no_text_is_held_when_the_audit_is_there():
    audit([Row("a", SOURCE, CLEAN, "given")])
    assert not language._known
