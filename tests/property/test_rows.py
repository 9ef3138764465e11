"""Whatever a data file holds, reading it ends in rows or in a sentence, and valid rows come back word for word."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from outcome import outcome

from mpo_jax.data.rows import read_rows, read_texts
from mpo_jax.errors import InputError

ODD = ["", " ", "\n", "\u2028", "\ufeff", "\x00", "\u202e", "é", "e\u0301", "नमस्ते", "مرحبا", "好", "🙂", '"', "\\", "[", "{"]
SAID = ["what is this?", "ndiyo", "好的", "لا", "x"]
words = st.sampled_from([before + said + after for before in ODD for said in SAID for after in ODD])
# With halves of a character, which JSON can write as "\ud83d" and no text can hold.
WRONG_TEXTS = ["", " ", "\n", "\ud83d", "x\udc00", "two\nlines"]
wrong = st.sampled_from([*WRONG_TEXTS, None, True, 0, -1.5, 10**20, float("nan"), [], ["x"], [[]], {}, {"from": "gpt"}])
keys = st.sampled_from(["", "\n", "\ud83d", "Prompt", "prompts", "language", "id", "source", "target_conversations", "value"])

language = st.sampled_from(["en", "sw", "zh", "und"])
side = st.fixed_dictionaries({"prompt": words, "chosen": words, "rejected": words}, optional={"language": language})
monolingual = st.fixed_dictionaries({"target": side}, optional={"source": st.none()})
parallel = st.fixed_dictionaries({"source": side, "target": side})
text = st.fixed_dictionaries({"language": language, "prompt": words, "answer": words})


def turn(speaker: str):
    return st.fixed_dictionaries({"from": st.just(speaker), "value": words})


def authors_side(name: str):
    human, gpt = turn("human"), turn("gpt")
    return {f"{name}_conversations": human.map(lambda t: [t]), f"{name}_chosen": gpt, f"{name}_rejected": gpt}


authors = st.fixed_dictionaries(authors_side("source") | authors_side("target"))
schemas = st.sampled_from([monolingual, parallel, authors])
files = schemas.flatmap(lambda row: st.lists(row, min_size=1, max_size=3))


@st.composite
def written(draw, rows: list) -> bytes:
    """The objects as a file: an array or one a line, with what editors and other systems add."""
    ascii_only = draw(st.booleans())
    if draw(st.booleans()):
        content = json.dumps(rows, ensure_ascii=ascii_only, indent=draw(st.sampled_from([None, 1])))
    else:
        end = draw(st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n"]))
        content = end.join(json.dumps(row, ensure_ascii=ascii_only) for row in rows) + draw(st.sampled_from(["", "\n"]))
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + content.encode("utf-8", "surrogatepass")


@st.composite
def spoilt(draw, value):
    """The object with one of its parts taken out, renamed, joined by another or replaced."""
    value = json.loads(json.dumps(value))
    places, inside = [], [value]
    while inside:
        node = inside.pop()
        places += [(node, key) for key in (node if isinstance(node, dict) else range(len(node)))]
        inside += [node[key] for at, key in places if at is node and isinstance(node[key], dict | list)]
    node, key = draw(st.sampled_from(places))
    change = draw(st.sampled_from(["replaced", "out", "joined", "renamed"]))
    if change == "replaced":
        node[key] = draw(wrong)
    elif isinstance(node, list):
        node[:] = [] if change == "out" else [*node, draw(wrong)]
    elif change == "joined":
        node[draw(keys)] = draw(wrong)
    else:
        kept = node.pop(key)
        if change == "renamed":
            node[draw(keys)] = kept
    return value


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("rows") / "rows.json"


def texts_of(value: dict, name: str) -> tuple[str, str, str] | None:
    """Prompt, chosen and rejected answer of a side, in either schema."""
    if f"{name}_chosen" in value:
        turns = (value[f"{name}_conversations"][0], value[f"{name}_chosen"], value[f"{name}_rejected"])
        return tuple(turn["value"] for turn in turns)
    of = value.get(name)
    return of and (of["prompt"], of["chosen"], of["rejected"])


@given(data=st.data(), values=files)
def test_valid_rows_come_back_word_for_word(path, data, values):
    path.write_bytes(data.draw(written(values)))
    rows = read_rows(path)
    assert len(rows) == len(values)
    for i, (row, value) in enumerate(zip(rows, values, strict=True)):
        assert row.id == str(i)
        for name, read in (("source", row.source), ("target", row.target)):
            assert (read and (read.prompt, read.chosen, read.rejected)) == texts_of(value, name)
            if read and "language" in value.get(name, {}):
                assert read.language == value[name]["language"]


@given(data=st.data(), values=st.lists(text, min_size=1, max_size=3))
def test_valid_texts_come_back_word_for_word(path, data, values):
    path.write_bytes(data.draw(written(values)))
    read = [row.target for row in read_texts(path)]
    assert [(t.language, t.prompt, t.chosen, t.rejected) for t in read] == [
        (v["language"], v["prompt"], v["answer"], v["answer"]) for v in values
    ]


@st.composite
def with_spoilt_objects(draw) -> bytes:
    values = draw(files | st.lists(text, min_size=1, max_size=2))
    i = draw(st.integers(0, len(values) - 1))
    values[i] = draw(spoilt(values[i]) | wrong)
    return draw(written(values))


@st.composite
def with_spoilt_bytes(draw) -> bytes:
    content = draw(written(draw(files)))
    start = draw(st.integers(0, len(content)))
    stop = draw(st.just(len(content)) | st.integers(start, min(len(content), start + 4)))
    patch = draw(st.binary(max_size=4) | st.sampled_from([b'"', b"\\", b"[", b"]", b"{", b"}", b",", b"\n", b"\x00"]))
    return content[:start] + patch + content[stop:]


@given(content=with_spoilt_objects() | with_spoilt_bytes(), read=st.sampled_from([read_rows, read_texts]))
@example(b'{"\\n": 1}', read_rows)
@example(b'{"target": {"prompt": "\\ud83d", "chosen": "a", "rejected": "b"}}', read_rows)
@example(b'{"language": "en", "prompt": "a", "answer": "\\ud83d"}', read_texts)
@example(b"[" * 100_000, read_rows)
@example(b'{"target":' * 100_000, read_rows)
@example(b'{"id": ' + b"1" * 5000 + b"}", read_rows)
def test_spoilt_files_end_in_rows_or_in_a_sentence(path, content, read):
    path.write_bytes(content)
    rows = outcome(lambda: read(path))
    for row in () if isinstance(rows, InputError) else rows:
        for side in filter(None, (row.source, row.target)):
            "".join((side.prompt, side.chosen, side.rejected)).encode()  # a tokenizer will
