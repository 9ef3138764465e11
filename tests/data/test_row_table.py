"""Rows without their texts are the same rows."""

import dataclasses

import numpy as np
import toy_chat

from mpo_jax.data.row_table import SOURCE, TARGET, Columns, RowTable, first_id, languages_of, sides
from mpo_jax.data.rows import PairText, Row


def test_rows_are_those_that_it_was_made_of():
    for rows in (toy_chat.rows(7), toy_chat.rows(7, source=False)):
        table = RowTable.of(rows)
        assert table == rows and list(table.ids) == [row.id for row in rows]
        assert [table.columns.languages[code] for code in table.languages] == [row.target.language for row in rows]
        assert (table.source_pairs < 0).all() == (rows[0].source is None)
        assert RowTable.of(table) is table
    assert table[1:3] == rows[1:3] and table.ids[1:3] == ["1", "2"] and table[-1] == rows[-1]
    assert table != rows[:-1]


def test_views_are_the_target_alone_and_the_source_as_a_target():
    rows = toy_chat.rows(4)
    table = RowTable.of(rows)
    alone, dominant = table.seen_as(TARGET), table.take(np.asarray([2])).seen_as(SOURCE)
    assert alone == [dataclasses.replace(row, source=None) for row in rows]
    assert dominant == [Row("2, source side", None, rows[2].source, "given")] and dominant.ids[0] == "2, source side"
    both = alone.followed_by(dominant)
    assert languages_of(both) == ["en", "ko", "sw"] and (both.source_pairs < 0).all()
    assert both.target_pairs[-1] == table.source_pairs[2]
    assert first_id(both.ids, both.target_pairs == both.target_pairs[-1]) == "2, source side"
    assert first_id(both.ids, both.target_pairs < 0) is None


def test_what_is_the_same_has_the_same_number():
    def row(name, prompt, chosen="w", language="sw"):
        return Row(name, PairText("en", prompt, "w", "l"), PairText(language, "q", chosen, "l"), "given")

    table = RowTable.of([row("a", "one two"), row("b", "one  two\n"), row("c", "one two", "v"), row("d", "three", language="ko")])
    assert table.prompts.tolist() == [table.prompts[0]] * 3 + [table.prompts[3]] and table.prompts[0] != table.prompts[3]
    assert table.source_pairs[0] == table.source_pairs[2] != table.source_pairs[1], "white space is not tokenised away"
    assert table.target_pairs[0] == table.target_pairs[3] != table.target_pairs[2], "texts decide, not their language"
    assert [(name, side, text.prompt) for name, side, text in sides(table, np.unique(table.source_pairs))] == [
        ("a", "source", "one two"),
        ("b", "source", "one  two\n"),
        ("d", "source", "three"),
    ]


def test_a_digest_is_of_texts_languages_and_order():
    rows = toy_chat.rows(4)
    other = [dataclasses.replace(row, target=dataclasses.replace(row.target, language="en")) for row in rows]
    swapped = [dataclasses.replace(rows[0], target=dataclasses.replace(rows[0].target, chosen="other")), *rows[1:]]
    digests = [RowTable.of(of).digest() for of in (rows, rows[::-1], rows[:3], other, swapped)]
    assert len(set(digests)) == 5 and RowTable.of(toy_chat.rows(4)).digest() == digests[0]


def test_where_one_text_ends_and_the_next_begins_matters():
    pairs = [PairText("en", "ab", "c", "d"), PairText("en", "a", "bc", "d"), PairText("en", "a", "b\nc", "d")]
    table = RowTable.of([Row(str(i), None, pair, "given") for i, pair in enumerate(pairs)])
    assert len(set(table.target_pairs.tolist())) == 3


def test_columns_are_kept(tmp_path):
    odd = Row("n° 4\n", None, PairText('a"\n', "ключ", "w", "l"), "detected")
    rows = [*toy_chat.rows(3, source=False), odd]
    columns = Columns.of((row, (i, i + 1)) for i, row in enumerate(rows))
    columns.save(tmp_path)
    read = Columns.load(tmp_path)
    for field in dataclasses.fields(Columns):
        assert np.array_equal(getattr(read, field.name), getattr(columns, field.name)), field.name
    assert [read.id_of(i) for i in range(4)] == ["0", "1", "2", "n° 4\n"]


def test_a_digest_is_of_texts_and_languages_and_their_order():
    rows = toy_chat.rows(4)
    other = dataclasses.replace(rows[0], target=dataclasses.replace(rows[0].target, language="zu"))
    worded = dataclasses.replace(rows[0], target=dataclasses.replace(rows[0].target, rejected="!"))
    ways = [rows, rows[::-1], rows[:3], [other, *rows[1:]], [worded, *rows[1:]], RowTable.of(rows).seen_as(TARGET)]
    assert len({RowTable.of(way).digest() for way in ways}) == len(ways)
    named = [dataclasses.replace(row, id=f"x{row.id}") for row in rows]
    assert RowTable.of(named).digest() == RowTable.of(rows).digest(), "the audit does not depend on names"
