"""The page needs nothing but itself, escapes everything, and quotes no text unless it was asked to."""

import re

import pytest
import small_run

from mpo_jax.reporting.facts import Run
from mpo_jax.reporting.page import NAME, render, write_page, write_page_of_run
from mpo_jax.reporting.run_folder import read_run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return small_run.write_run(tmp_path_factory.mktemp("hostile") / "run", text=small_run.HOSTILE)


def test_hostile_text_stays_text(hostile):
    page = render([read_run(hostile, small_run.HOSTILE, texts=True)])
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(&#39;ran&#39;)&lt;/script&gt;" in page
    assert "{{ 7*7 }}" in page
    assert page.count("</style>") == 1


def test_nothing_is_asked_of_a_network(tmp_path):
    page = render([read_run(small_run.write_run(tmp_path / "run"), "mine", texts=True)])
    assert not re.search(r"https?://|@import|url\(|<script|\bsrc=", page)
    assert "default-src 'none'" in page


def test_texts_are_there_only_where_they_were_asked_for(tmp_path):
    folder = small_run.write_run(tmp_path / "run", text="a text that only an answer has")
    write_page_of_run(folder, "mine")
    without = (folder / NAME).read_text(encoding="utf-8")
    assert "Ask a text" not in without
    assert "Answers" not in without
    assert "Ask a text" in render([read_run(folder, "mine", texts=True)])


def test_half_a_character_is_written_as_its_number(tmp_path):
    write_page(tmp_path / NAME, [Run("half \ud83d", settings={"method": "Mpo"})])
    assert "half \\ud83d" in (tmp_path / NAME).read_text(encoding="utf-8")


def test_what_there_is_has_a_section_and_what_is_not_has_none(tmp_path):
    folder = small_run.write_run(tmp_path / "run")
    sections = {"gaps", "safety", "relation", "usefulness", "training", "data", "settings"}
    assert sections <= set(re.findall(r'<section id="(\w+)"', render([read_run(folder, "mine", texts=False)])))
    for path in folder.iterdir():
        if path.name != "reward_gap.json":
            path.unlink()
    page = render([read_run(folder, "mine", texts=False)])
    assert re.findall(r'<section id="(\w+)"', page) == ["gaps", "usefulness"]
    assert set(re.findall(r'href="#(\w+)"', page)) == {"results", "gaps", "usefulness"}


def test_several_runs_have_columns_and_a_best(tmp_path):
    runs = [
        read_run(small_run.write_run(tmp_path / name, after=after, loss=loss), name, texts=False)
        for name, after, loss in (("first", 0.3, "Mpo"), ("second", 0.9, "Dpo"))
    ]
    page = render(runs)
    assert '<th scope="col" class="number">first</th>' in page
    assert re.search(r'class="number best"[^★]*★[^>]*</span><span class="said">best: </span><span class="value">\+0\.900', page)
    assert '<tr class="differs"><th scope="row">method</th><td>Mpo</td><td>Dpo</td></tr>' in re.sub(r">\s+<", "><", page)


def test_numbers_are_those_of_the_files(tmp_path):
    page = render([read_run(small_run.write_run(tmp_path / "run"), "mine", texts=False)])
    for number in ("−0.100", "+0.900", "[+0.850, +0.950]", "40.0\u202f%", "[37.0, 43.0]", "1.300"):
        assert number in page, number
