"""A JSON array is read as json reads the whole of it, a piece at a time."""

import json
import random
import re

import pytest

from mpo_jax.data import json_objects
from mpo_jax.data.json_objects import elements, objects, values
from mpo_jax.errors import InputError

FILE = "rows.json"
PIECES = (4, 5, 7, 16, 33, 2**20)
SAMPLE = [
    {"a": 'é "\\" \\', "ü": [1, -2.5e-3, {"": None}], "b": "日本語\u2028🙂"},
    12345678901234567890,
    1.5e300,
    -0.0,
    True,
    None,
    "",
    "half \ud83d",
    [],
    {},
    float("-inf"),
    [[["x" * 100]]],
]


class File:
    """Bytes that say how many of them were asked for."""

    def __init__(self, data: bytes):
        self.data, self.most, self.furthest = data, 0, 0

    def __len__(self):
        return len(self.data)

    def __getitem__(self, at: slice) -> bytes:
        found = self.data[at]
        self.most, self.furthest = max(self.most, at.stop - (at.start or 0)), max(self.furthest, at.stop)
        return found


def read(data: bytes) -> list:
    """Its elements; each stands where it says."""
    found = list(elements(data, FILE))
    assert all(json.loads(data[begin:stop]) == value for value, (begin, stop) in found)
    return [value for value, _ in found]


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("options", [{}, {"indent": 1}, {"ensure_ascii": False, "separators": (",", ":")}])
def test_elements_are_those_of_the_whole(monkeypatch, piece, options):
    monkeypatch.setattr(json_objects, "PIECE", piece)
    kept = SAMPLE if options.get("ensure_ascii", True) else [value for value in SAMPLE if value != "half \ud83d"]
    text = json.dumps(kept, **options)
    for whole in (text, f"\ufeff \r\n\t{text}\n\n"):
        assert repr(read(whole.encode())) == repr(kept)
    assert read(b" [ \n ] ") == []


@pytest.mark.parametrize("piece", PIECES)
def test_what_is_broken_is_said_with_its_place_as_json_says_it(monkeypatch, piece):
    monkeypatch.setattr(json_objects, "PIECE", piece)
    draw, text, said = random.Random(0), json.dumps(SAMPLE, indent=1, ensure_ascii=True), 0
    for _ in range(300):
        at = draw.randrange(1, len(text))
        broken = text[:at] + draw.choice(("", "]", "}", ",", '"', "\n", "x", "é")) + text[at + draw.randrange(3) :]
        try:
            expected = json.loads(broken)
        except json.JSONDecodeError as error:
            if "trailing comma" in error.msg:  # Python 3.13 says it of the comma
                continue
            said += 1
            words = f"{FILE}, line {error.lineno}, column {error.colno}, is not JSON ({error.msg}): repair the file."
            with pytest.raises(InputError, match=f"^{re.escape(words)}$"):
                read(broken.encode())
        else:
            assert repr(read(broken.encode())) == repr(expected)
    assert said > 100


@pytest.mark.parametrize("piece", PIECES)
def test_what_is_not_text_is_said_with_its_byte(monkeypatch, piece):
    monkeypatch.setattr(json_objects, "PIECE", piece)
    good = '["日本語", "'.encode()
    for bad in (b'\xff"]', b"\xe6\x97", b'\xe6\x97"]'):
        with pytest.raises(InputError, match=rf"not UTF-8 text \(byte {len(good)}\)"):
            read(good + bad)
    with pytest.raises(InputError, match=rf"not UTF-8 text \(byte {3 + len(good)}\)"):
        read(b"\xef\xbb\xbf" + good + b"\xff")


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000 + "]" * 100_000], ids=["digits", "brackets"])
def test_what_python_cannot_read_is_a_sentence_with_its_line(value):
    with pytest.raises(InputError, match=r"line 2, cannot be read, since a number in it is too long or its brackets"):
        read(f"[1,\n{value}]".encode())


def test_no_more_is_read_than_a_piece_at_a_time_and_not_before_it_is_needed(monkeypatch):
    monkeypatch.setattr(json_objects, "PIECE", 1000)
    monkeypatch.setattr(json_objects, "_HEAD", 100)
    rows = [{"text": "a" * 90, "number": i} for i in range(1000)]
    file = File(json.dumps(rows).encode())
    found = objects(file, FILE)
    for i, row in enumerate(rows):
        assert next(found)[:2] == (f"{FILE}, row {i}", row)
        assert file.furthest <= (i + 2) * 120 + 1000
    assert not list(found)
    assert file.most == 1000


def test_a_long_value_is_tried_a_few_times_only(monkeypatch):
    tried = []
    decoder = json.JSONDecoder()
    monkeypatch.setattr(json_objects, "PIECE", 100)
    monkeypatch.setattr(json_objects, "_DECODER", decoder)
    monkeypatch.setattr(decoder, "raw_decode", lambda *at: tried.append(at) or json.JSONDecoder.raw_decode(decoder, *at))
    long = {"text": "a" * 100_000}
    assert read(json.dumps([1, long, 2]).encode()) == [1, long, 2]
    assert len(tried) < 20


def test_values_name_the_rows_of_an_array_and_the_lines_of_a_file():
    assert values("[1, 2]", FILE) == [(f"{FILE}, row 0", 1), (f"{FILE}, row 1", 2)]
    assert values("1\n\n[2]", FILE) == [(f"{FILE}, line 1", 1), (f"{FILE}, line 3", [2])]
