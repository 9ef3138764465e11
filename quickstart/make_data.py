"""Which mild requests does the quickstart train on, and which are held out? `python quickstart/make_data.py` writes all.

data/train.jsonl          preference rows: English (the dominant side) parallel to Chinese, Korean, Arabic, Bengali or Swahili
data/heldout.jsonl        preference rows never trained on, in either language; the id says what is new about them:
                          "newpair-..."   this person with this request; both occur in training, apart
                          "newperson-..." the person has no request in training
data/texts_train.jsonl    friendly questions with answers in all six languages, about all people, to learn language from
data/texts_heldout.jsonl  the eighth of them that is kept for held-out perplexity

The files are committed, and nothing is drawn at random: the same tables give the same bytes.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from phrases import FORMS, PHRASES

DATA = Path(__file__).parent / "data"
DOMINANT = "en"
NEW_PEOPLE = 2  # the last people of the tables, kept out of training
NAMES = [who.removeprefix("the ") for who in PHRASES[DOMINANT].people]


def novelty(person: int, form: int) -> str:
    """What a request is to someone who has seen the training rows: "train", "newpair" or "newperson"."""
    if person >= len(NAMES) - NEW_PEOPLE:
        return "newperson"
    return "newpair" if form == person % len(FORMS) else "train"


def triple(language: str, person: int, form: int) -> dict[str, str]:
    """One side of a row. The wording depends on person and form alone, so the sides of a row say the same."""
    request, who = PHRASES[language].requests[form], PHRASES[language].people[person]
    wording = (person // 2 + form) % 2  # person // 2, since person + form is even for every "newpair"
    return {
        "language": language,
        "prompt": request.prompt.format(who=who),
        "chosen": request.chosen[wording].format(who=who),
        "rejected": request.rejected[wording].format(who=who),
    }


def preference_rows() -> Iterator[dict]:
    """Every request about every person, once for each language but the dominant one."""
    for person, name in enumerate(NAMES):
        for form, request in enumerate(FORMS):
            source = triple(DOMINANT, person, form)
            for language in PHRASES:
                if language != DOMINANT:
                    row_id = f"{novelty(person, form)}-{name}-{request}-{language}"
                    yield {"id": row_id, "source": source, "target": triple(language, person, form)}


def texts(*, held_out: bool) -> Iterator[dict]:
    """Every friendly question about every person in every language; an eighth of the combinations is held out."""
    for language, phrases in PHRASES.items():
        for person, who in enumerate(phrases.people):
            for form, chat in enumerate(phrases.chats):
                if held_out == (form == person % len(phrases.chats)):
                    yield {"language": language, "prompt": chat.prompt.format(who=who), "answer": chat.answer.format(who=who)}


def line(row: dict) -> str:
    """A row as one line of JSON, every script readable as it is."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"


def files() -> dict[str, str]:
    """The name and the text of each file of the data folder."""
    rows = list(preference_rows())
    contents = {
        "train.jsonl": [row for row in rows if row["id"].startswith("train-")],
        "heldout.jsonl": [row for row in rows if row["id"].startswith("new")],
        "texts_train.jsonl": list(texts(held_out=False)),
        "texts_heldout.jsonl": list(texts(held_out=True)),
    }
    return {name: "".join(map(line, kept)) for name, kept in contents.items()}


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    for name, text in files().items():
        (DATA / name).write_text(text, encoding="utf-8")
        print(f"{DATA / name}: {text.count(chr(10))} rows")
