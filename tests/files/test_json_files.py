"""A file is written whole; trees of JSON differ by place, and are filled without changing what they say."""

import json

from mpo_jax.files.json_files import differences, filled, write_json


def test_differences_of_two_trees():
    kept = {"a": 1, "b": {"c": [1, 2], "d": None}, "gone": 1}
    assert differences(kept, {**kept, "b": {"c": (1, 2), "d": None}}) == [], "JSON knows no tuples"
    assert differences(kept, {"a": 2, "b": {"c": [1], "d": None}, "new": 3}) == [
        "a was 1 and is now 2",
        "b.c was [1, 2] and is now [1]",
        "gone was 1 and is now None",
        "new was None and is now 3",
    ]


def test_a_tree_is_filled_where_it_says_nothing():
    assert filled({"a": 1, "b": {"c": None}}, {"a": 2, "b": {"c": 3, "d": 4}, "e": {"f": 5}}) == {
        "a": 1,
        "b": {"c": None, "d": 4},
        "e": {"f": 5},
    }
    assert filled({"a": None}, {"a": {"b": 1}}) == {"a": None}


def test_json_replaces_the_whole_file_and_keeps_every_script(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("x" * 1000)
    write_json(path, {"language": "বাংলা"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"language": "বাংলা"}
    assert "বাংলা" in path.read_text(encoding="utf-8")
