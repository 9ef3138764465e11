"""Is the quickstart's data what its tables say, is the held-out part unseen, and does every text suit its language?"""

import collections
import importlib
import json
import re
import unicodedata
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).resolve().parents[2] / "quickstart"
SCRIPTS = {"en": "LATIN", "zh": "CJK", "ko": "HANGUL", "ar": "ARABIC", "bn": "BENGALI", "sw": "LATIN"}
ANSWERS = ("chosen", "rejected")


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (QUICKSTART / "data" / name).read_text(encoding="utf-8").splitlines()]


TRAIN, HELDOUT = read("train.jsonl"), read("heldout.jsonl")
TEXTS = {"train": read("texts_train.jsonl"), "heldout": read("texts_heldout.jsonl")}
SIDES = [row[side] for row in TRAIN + HELDOUT for side in ("source", "target")]


def texts() -> list[tuple[str, str]]:
    """Every (language, text) of the four files."""
    preferences = [(side["language"], side[key]) for side in SIDES for key in ("prompt", *ANSWERS)]
    return preferences + [(row["language"], row[key]) for part in TEXTS.values() for row in part for key in ("prompt", "answer")]


def prompts(rows: list[dict], side: str) -> set[str]:
    return {row[side]["prompt"] for row in rows}


@pytest.fixture
def module(monkeypatch):
    """Imports a file of the quickstart as the command `python quickstart/...` would see it."""
    monkeypatch.syspath_prepend(QUICKSTART)
    return importlib.import_module


def test_files_are_what_the_tables_make(module):
    made = module("make_data").files()
    assert set(made) == {path.name for path in (QUICKSTART / "data").iterdir()}
    for name, text in made.items():
        assert (QUICKSTART / "data" / name).read_text(encoding="utf-8") == text
    assert sum(len(text.encode()) for text in made.values()) < 500_000


def test_tables_are_parallel(module):
    phrases = module("phrases")
    for table in phrases.PHRASES.values():
        assert len(set(table.people)) == len(phrases.ENGLISH.people)
        assert len(table.requests) == len(phrases.FORMS)
        assert len(table.chats) == len(phrases.ENGLISH.chats)


def test_every_person_fits_every_slot(module):
    """Endings that would depend on the noun in its slot are absent from the tables (see the docstring of phrases.py)."""
    wrong = {
        "en": r"(^|[.!?] )\{who\}",
        "sw": r"(^|[.!?] )\{who\}",
        "ko": r"\{who\}([이가을를은는와과로]|으로)( |$)",
        "ar": r"ل\{who\}",
        "bn": r"\{who\}(?!কে | )",
    }
    for language, pattern in wrong.items():
        table = module("phrases").PHRASES[language]
        slots = [text for request in table.requests for text in (request.prompt, *request.chosen, *request.rejected)]
        for text in [*slots, *(text for chat in table.chats for text in chat)]:
            assert text.count("{who}") == 1, text
            assert not re.search(pattern, text), text


def test_ids_are_unique_and_languages_equally_many():
    ids = [row["id"] for row in TRAIN + HELDOUT]
    assert len(set(ids)) == len(ids)
    for rows, pairs in ((TRAIN, 90), (HELDOUT, 30)):
        counts = collections.Counter(row["target"]["language"] for row in rows)
        assert counts == dict.fromkeys(set(SCRIPTS) - {"en"}, pairs)
        assert {row["source"]["language"] for row in rows} == {"en"}
        assert len(prompts(rows, "source")) == pairs
    for split, n in (("train", 140), ("heldout", 20)):
        assert collections.Counter(row["language"] for row in TEXTS[split]) == dict.fromkeys(SCRIPTS, n)


def test_held_out_prompts_are_unseen():
    for side in ("source", "target"):
        assert not prompts(TRAIN, side) & prompts(HELDOUT, side)
    seen, unseen = ({row["prompt"] for row in TEXTS[split]} for split in ("train", "heldout"))
    assert not seen & unseen


def test_ids_say_what_is_new():
    parts = [row["id"].split("-") for row in TRAIN + HELDOUT]
    seen_people = {person for kind, person, _, _ in parts if kind == "train"}
    seen_forms = {form for kind, _, form, _ in parts if kind == "train"}
    assert {kind for kind, *_ in parts} == {"train", "newpair", "newperson"}
    assert {person for kind, person, *_ in parts if kind == "newpair"} == seen_people
    assert not {person for kind, person, *_ in parts if kind == "newperson"} & seen_people
    assert {form for kind, _, form, _ in parts if kind != "train"} == seen_forms


def test_both_wordings_occur_in_training_and_in_new_pairs():
    for rows in (TRAIN, [row for row in HELDOUT if row["id"].startswith("newpair")]):
        for answer in ANSWERS:
            wordings = collections.defaultdict(set)
            for row in rows:
                _, person, form, _ = row["id"].split("-")
                wordings[form].add(row["source"][answer].replace(person, ""))
            assert [len(kinds) for kinds in wordings.values()] == [2] * 6


def test_texts_are_short_and_differ():
    for side in SIDES:
        assert side["chosen"] != side["rejected"]
        assert len(side["prompt"]) <= 65
        assert len(side["prompt"].encode()) <= 150
        assert max(len(side[answer]) for answer in ANSWERS) <= 90
        assert max(len(side[answer].encode()) for answer in ANSWERS) <= 190


def test_every_letter_is_of_the_languages_script():
    for language, text in texts():
        letters = [letter for letter in text if letter.isalpha()]
        assert len(letters) >= 6, text
        assert all(unicodedata.name(letter).startswith(SCRIPTS[language]) for letter in letters), text
        assert text == unicodedata.normalize("NFC", text).strip()
