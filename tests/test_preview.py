import dataclasses
import json

import pytest
import toy_chat

from mpo_jax import preview
from mpo_jax.data.audit import audit
from mpo_jax.data.chat import tokenize
from mpo_jax.data.rows import PairText, Row

TOKENIZER = toy_chat.tokenizer()


def _show(row, colour=False, **limits):
    (example,) = tokenize([row], TOKENIZER, toy_chat.FORMAT, **({"max_length": 1000} | limits))
    return preview.show_row(example, TOKENIZER, toy_chat.FORMAT, colour)


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
    lines = preview.table(examples, audit(rows, examples)).splitlines()
    lengths = [len(e.target.prompt) + len(e.target.chosen) for e in examples if e.language == "ko"]
    assert f"{sum(lengths) / 5:.0f} / {max(lengths)}" in next(line for line in lines if line.startswith("ko"))
    assert next(line for line in lines if line.startswith("one word rejected")).split()[-2:] == ["5", "5"]
    monolingual = toy_chat.examples(source=False)
    assert preview.table(monolingual, audit(toy_chat.rows(source=False), monolingual)).splitlines()[1].split()[2:4] == ["-", "-"]


def test_the_command(tmp_path, capsys):
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"target": {"prompt": "what", "chosen": "this secret", "rejected": "that"}}), encoding="utf-8")
    TOKENIZER.save_pretrained(tmp_path / "tokenizer")
    common = ["--data", str(data), "--tokenizer", str(tmp_path / "tokenizer"), "--png", str(tmp_path / "lengths.png")]
    preview.main(common)
    assert "s|e|c|r|e|t|<end>]" in capsys.readouterr().out
    preview.main([*common, "--rows", "0"])
    out = capsys.readouterr().out
    assert "secret" not in out
    assert "0 of 1 rows" in out
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")


def test_bad_input_is_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        preview.main(["--data", str(tmp_path / "none.jsonl"), "--tokenizer", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
