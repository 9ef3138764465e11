"""Rows are shown as the tokens that they are."""

import dataclasses

import pytest
import toy_chat

from mpo_jax.data import token_view
from mpo_jax.data.audit import audit
from mpo_jax.data.chat import tokenize
from mpo_jax.data.rows import PairText, Row

TOKENIZER = toy_chat.tokenizer()


def _show(row, colour=False, **limits):
    (example,) = tokenize([row], TOKENIZER, toy_chat.FORMAT, **({"max_length": 1000} | limits))
    return token_view.show_row(example, TOKENIZER, toy_chat.FORMAT, colour)


ROW = Row("7", None, PairText("en", "ask", "good", "bad"), "given")


def test_template_prompt_and_answer_are_told_apart():
    assert "<<bos>|<user>|\n>a|s|k<<end>|\n|<model>|\n>[g|o|o|d|<end>]" in _show(ROW)
    painted = _show(ROW, colour=True)
    assert "\x1b[36ma\x1b[0m\x1b[36;4ms\x1b[0m\x1b[36mk\x1b[0m" in painted
    assert "\x1b[32;4md\x1b[0m\x1b[32m<end>\x1b[0m" in painted
    assert "WARNING" not in painted


@pytest.mark.parametrize(("text", "warning"), [("ends <end> early", "2 end tokens"), ("a <bos> again", "2 beginning tokens")])
def test_more_than_one_mark_is_a_warning(text, warning):
    assert warning in _show(dataclasses.replace(ROW, target=PairText("en", "ask", text, "bad")))


def test_bytes_that_only_together_make_a_character_are_one_piece():
    assert "[\u09a8|\u09be|<end>]" in _show(dataclasses.replace(ROW, target=PairText("bn", "ask", "\u09a8\u09be", "bad")))


def test_a_cut_answer_has_no_end():
    assert "0 end tokens" in _show(ROW, max_length=10)


def test_the_table_gives_lengths_and_findings_per_language():
    rows, examples = toy_chat.rows(), toy_chat.examples()
    lines = token_view.table(examples, audit(rows, examples)).splitlines()
    lengths = [len(e.target.prompt) + len(e.target.chosen) for e in examples if e.language == "ko"]
    assert f"{sum(lengths) / 5:.0f} / {max(lengths)}" in next(line for line in lines if line.startswith("ko"))
    assert next(line for line in lines if line.startswith("one word rejected")).split()[-2:] == ["5", "5"]
    monolingual = toy_chat.examples(source=False)
    findings = audit(toy_chat.rows(source=False), monolingual)
    assert token_view.table(monolingual, findings).splitlines()[1].split()[2:4] == ["-", "-"]


def test_what_only_looks_like_a_token_is_told():
    """A format may write <|user|> or [INST] for a tokenizer that reads them as text; <bos> it has."""
    form = dataclasses.replace(toy_chat.FORMAT, before="<bos><|user|>\n", between="[/INST]<model>\n")
    assert token_view.cut_marks(form, TOKENIZER) == [("<|user|>", 8), ("[/INST]", 7)]
    rows, examples = toy_chat.rows(2), toy_chat.examples(2)
    text = token_view.report(rows, examples, TOKENIZER, form, show=0)
    assert "contains <|user|>, which is not one token of this tokenizer: it is split into 8." in text
    assert "not one token" not in token_view.report(rows, examples, TOKENIZER, toy_chat.FORMAT, show=0)


def test_what_the_audit_warns_of_is_in_the_report():
    rows = toy_chat.rows(2) * 5
    examples = toy_chat.examples(2) * 5
    assert "warning: sw: 4 of 5 rows repeat an earlier one" in token_view.report(
        rows, examples, TOKENIZER, toy_chat.FORMAT, show=0
    )
