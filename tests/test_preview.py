"""The command shows what a run would train on, or any rows with any tokenizer."""

import json
import re
from pathlib import Path

import pytest
import toy_chat
from world import config_file

from mpo_jax import preview
from mpo_jax.data.dataset import Batching, prepare
from mpo_jax.training.config import parse
from mpo_jax.types import Reads, Want


@pytest.fixture
def files(tmp_path):
    """Options that name a file of one row and a tokenizer."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"target": {"prompt": "what", "chosen": "this secret", "rejected": "that"}}), encoding="utf-8")
    toy_chat.tokenizer().save_pretrained(tmp_path / "tokenizer")
    return ["--data", str(path), "--tokenizer", str(tmp_path / "tokenizer")]


def test_any_rows_with_any_tokenizer(files, tmp_path, capsys):
    preview.main([*files, "--png", str(tmp_path / "lengths.png")])
    assert "s|e|c|r|e|t|<end>]" in capsys.readouterr().out
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")
    preview.main([*files, "--rows", "0"])
    out = capsys.readouterr().out
    assert "secret" not in out
    assert "0 of 1 rows" in out


@pytest.mark.parametrize("settings", [["pairs=both", "max_length=50"], ["pairs=source", "eval_fraction=0.4"], []])
def test_a_run_is_shown_as_it_would_train(world, tmp_path, capsys, settings):
    """Its pairs, without what it holds out, cut as it cuts."""
    argv = [f"--config={config_file(world, tmp_path)}", *(f"--config.data.{setting}" for setting in settings)]
    config = parse(argv)
    batching = Batching(config.batch_size, Reads(target=Want.LOGP), seed=config.seed)
    data = prepare(config.data, Path(config.model), None, batching)
    preview.main([*argv, "--rows", "99"])
    out = capsys.readouterr().out
    assert data.held_out is not None
    assert out.startswith(f"{len(data.train.examples)} rows to train on, {len(data.held_out.examples)} held out\n")
    shown = re.findall(r"^row (.*) \((?:en|ko|sw)\)$", out, re.MULTILINE)
    assert shown == [example.id for example in data.train.examples]
    lengths = re.findall(r"^  target chosen: (\d+) \+ (\d+) tokens", out, re.MULTILINE)
    assert lengths == [(str(len(e.target.prompt)), str(len(e.target.chosen))) for e in data.train.examples]


def test_bad_input_is_one_sentence(files, world, tmp_path, capsys):
    config = f"--config={config_file(world, tmp_path / 'run')}"
    for argv, words in (
        (["--data", "none.jsonl", *files[2:]], "none.jsonl does not exist"),
        ([], "There is nothing to preview"),
        ([*files, "--config.data.pairs=both"], "'--config.data.pairs=both' is not an option: write --config=FILE.py"),
        ([config, "--max-length", "9"], "--max-length cannot be combined with --config: write --config.data.max_length=VALUE"),
        ([config, "--config.data.template=authors"], "needs the special tokens <|begin_of_text|>"),
        ([*files, "--template", "gemma2"], "needs the special tokens <start_of_turn>, <end_of_turn>, <eos>, which"),
    ):
        with pytest.raises(SystemExit) as stop:
            preview.main(argv)
        assert stop.value.code == 2
        out, err = capsys.readouterr()
        assert words in err
        assert (out, err.count("\n")) == ("", 1)
