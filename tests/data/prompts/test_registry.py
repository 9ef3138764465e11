import json

import pytest

from mpo_jax.data.prompts.registry import SETS, read_prompts
from mpo_jax.errors import InputError

LANGUAGES = ("sw", "ko", "sw", "ko", "sw")


@pytest.fixture
def write(tmp_path):
    def written(name="own.jsonl", *changes):
        values = [{"id": f"{i}", "language": language, "prompt": f"tea {i}"} for i, language in enumerate(LANGUAGES)]
        for i, change in changes:
            values[i] |= change
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, values)), encoding="utf-8")
        return path

    return written


def ids(*args, **kwargs):
    return [prompt.id for prompt in read_prompts(*args, **kwargs)]


def test_prompts_are_chosen_by_language_and_limit(write):
    path = write()
    assert ids(path) == ["0", "1", "2", "3", "4"]
    assert ids(path, languages=["sw"]) == ["0", "2", "4"]
    assert ids(path, limit=1) == ["0", "1"]
    assert ids(path, limit=2) == ["0", "1", "2", "3"]
    assert ids(path, languages=["sw"], limit=2) == ["0", "2"]
    for limit in (0, -1):
        with pytest.raises(InputError, match=f"limit={limit} must be at least 1"):
            read_prompts(path, limit=limit)


def test_several_files_are_one_set(write):
    other = write("b.jsonl", *((i, {"id": f"b{i}"}) for i in range(5)))
    assert ids(f"{write()}, {other}", languages=["ko"]) == ["1", "3", "b1", "b3"]
    with pytest.raises(InputError, match=r"c.jsonl, line 1: .*already taken by .*own.jsonl, line 1"):
        read_prompts(f"{write()},{write('c.jsonl')}")


def test_an_id_twice_in_a_language(write):
    assert len(ids(write("a.jsonl", (1, {"id": "0"})))) == 5, "one in each of two languages"
    path = write("b.jsonl", (2, {"id": "0"}))
    with pytest.raises(InputError, match=r"line 3: the prompt '0' in the language 'sw' has an id .* taken by .*, line 1"):
        read_prompts(path)
    assert ids(path, languages=["ko"]) == ["1", "3"], "what is not asked for is not refused"


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": " \n"},
        {"follow_ups": ["more", ""]},
        {"prompt": [{"role": "system", "content": ""}, {"role": "user", "content": "tea"}]},
    ],
)
def test_an_empty_message(write, change):
    path = write("own.jsonl", (3, change))
    with pytest.raises(InputError, match="line 4: the prompt '3' in the language 'ko' is empty or has an empty message"):
        read_prompts(path)
    assert len(ids(path, languages=["sw"])) == 3


def test_a_language_that_no_prompt_has(write):
    with pytest.raises(InputError, match="no prompts in the language 'yo': choose among sw, ko"):
        read_prompts(write(), languages=["sw", "yo"])


def test_what_is_no_set_of_prompts(tmp_path, write):
    path = tmp_path / "notes.txt"
    for text in ("Buy tea.\n", "a,b\n1,2\n", '{"a": 1}\n', "[1, 2]", "a" * 200_000, "\x00", ""):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="no set of prompts that is known") as error:
            read_prompts(path)
        assert all(f"{known.name} ({known.looks})" in str(error.value) for known in SETS)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_prompts(path)
    path.write_text("goal,target\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no prompts"):
        read_prompts(path)
    with pytest.raises(InputError, match="is a directory: give the file in it"):
        read_prompts(tmp_path)
    for missing in (str(tmp_path / "none.csv"), f"{write()},{tmp_path / 'none.csv'}"):
        with pytest.raises(InputError, match=r"none.csv does not exist: give a file"):
            read_prompts(missing)


def test_a_side_is_for_rows_alone(write):
    with pytest.raises(InputError, match="is prompts of your own, which has no sides"):
        read_prompts(write(), side="source")
    with pytest.raises(InputError, match="side='left' is not known"):
        read_prompts(write(), side="left")


def test_prompts_in_a_bucket(bucket, write):
    path = bucket / "own.jsonl"
    path.write_text(write().read_text())
    assert ids(str(path), limit=1) == ["0", "1"]
