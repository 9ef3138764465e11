import copy
import dataclasses

import numpy as np
import pytest
import toy_chat
from toy_chat import FORMAT, HEADER

from mpo_jax.data.chat import load_tokenizer, tokenize
from mpo_jax.data.chat_format import chat_format, hf_format
from mpo_jax.data.rows import PairText, Row, read_rows
from mpo_jax.errors import InputError
from mpo_jax.models.families import gemma2, llama, qwen2
from mpo_jax.types import ChatFormat

TOKENIZER = toy_chat.tokenizer()
AUTHORS = {  # what the released code writes, by the folder of a published tokenizer
    "llama-3.1-8b-instruct": (
        llama,
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "gemma-2-9b-it": (gemma2, "<bos><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", "<eos>"),
    "qwen2.5-7b-instruct": (
        qwen2,
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
    ),
}


def _row(prompt="ask", chosen="good", rejected="bad"):
    return Row("seven", None, PairText("en", prompt, chosen, rejected), "given")


def _tokenize(row, limit=1000, truncation="keep_header", form=FORMAT):
    return tokenize([row], TOKENIZER, form, max_length=limit, truncation=truncation)[0].target


def _ids(text, tokenizer=TOKENIZER):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_ids_are_those_of_the_literal_text():
    pair = _tokenize(_row())
    assert pair.prompt.tolist() == _ids("<bos><user>\nask<end>\n<model>\n")
    assert pair.chosen.tolist() == _ids("good<end>")
    assert pair.rejected.dtype == np.int32


def test_a_tokenizer_that_cuts_pads_or_splits_special_tokens():
    """It may come with a truncation of its own, or read special tokens of a text letter by letter."""
    own, split = copy.deepcopy(TOKENIZER), copy.deepcopy(TOKENIZER)
    own.backend_tokenizer.enable_truncation(4)
    own.backend_tokenizer.enable_padding(length=64)
    split.split_special_tokens = True
    for tokenizer in (own, split):
        pair = tokenize([_row()], tokenizer, FORMAT, max_length=1000)[0].target
        assert pair.chosen.tolist() == _ids("good<end>", tokenizer)
    assert len(pair.chosen) == len("good<end>")


def test_content_is_stripped_only_when_the_format_says_so():
    spaces = _row(" ask ", "\ngood ")
    assert _tokenize(spaces).chosen.tolist() == _ids("good<end>")
    kept = _tokenize(spaces, form=dataclasses.replace(FORMAT, strip=False))
    assert (kept.prompt.tolist(), kept.chosen.tolist()) == (_ids("<bos><user>\n ask <end>\n<model>\n"), _ids("\ngood <end>"))


@pytest.mark.parametrize("truncation", ["keep_header", "official"])
@pytest.mark.parametrize("limit", range(HEADER + 2, 60, 5))
@pytest.mark.parametrize(("prompt", "chosen", "rejected"), [(40, 5, 2), (3, 50, 9), (40, 1, 60), (0, 30, 30), (20, 20, 20)])
def test_truncation_fits_counts_and_leaves_an_answer(truncation, limit, prompt, chosen, rejected):
    row = _row("".join(chr(97 + i % 26) for i in range(prompt)), "c" * chosen, "r" * rejected)
    whole = _tokenize(row)
    pair = _tokenize(row, limit, truncation)
    longest = max(len(pair.chosen), len(pair.rejected))
    assert len(pair.prompt) + longest <= limit
    assert min(len(pair.chosen), len(pair.rejected), len(pair.prompt)) > 0
    for name in ("prompt", "chosen", "rejected"):
        assert len(getattr(pair, name)) + getattr(pair, f"truncated_{name}") == len(getattr(whole, name))
    for answer, full in ((pair.chosen, whole.chosen), (pair.rejected, whole.rejected)):
        assert answer.tolist() == full[: len(answer)].tolist()  # the end token goes first
    if truncation == "keep_header":
        room = limit - HEADER
        message = len(pair.prompt) - HEADER
        assert pair.prompt.tolist() == _ids("<bos><user>\n" + row.target.prompt[prompt - message :] + "<end>\n<model>\n")
        if pair.truncated_prompt + pair.truncated_chosen + pair.truncated_rejected:
            assert len(pair.prompt) + longest == limit  # as little as needed
        assert message >= min(prompt, room // 2)
        assert longest >= min(max(chosen, rejected) + 1, room // 2)
    else:
        assert pair.prompt.tolist() == whole.prompt[: len(pair.prompt)].tolist()


@pytest.mark.parametrize(
    ("prompt", "answer", "limit", "expected"),
    # worked by hand from the published rule: answer short / prompt short / both long
    [(90, 10, 60, (50, 10)), (10, 90, 60, (10, 50)), (60, 60, 60, (30, 30)), (30, 90, 60, (15, 45))],
)
def test_the_official_rule(prompt, answer, limit, expected):
    pair = _tokenize(_row("p" * (prompt - HEADER), "c" * (answer - 1), "r"), limit, "official")
    assert (len(pair.prompt), len(pair.chosen)) == expected


def test_truncation_that_cannot_be():
    with pytest.raises(InputError, match=r"row 'seven', target side.*17 tokens.*max_length=15"):
        _tokenize(_row(chosen="longer"), 15, "error")
    assert _tokenize(_row(chosen="longer"), 17, "error").truncated_chosen == 0
    with pytest.raises(InputError, match=rf"row 'seven', target side: max_length={HEADER + 1} leaves no room"):
        _tokenize(_row(), HEADER + 1)
    with pytest.raises(InputError, match=r"row 'seven', target side: max_length=2 leaves no room"):
        _tokenize(_row("p" * 500), 2, "official")
    with pytest.raises(InputError, match=r"truncation='left'.*'keep_header', 'official', 'error'"):
        _tokenize(_row(), truncation="left")


def test_what_has_no_tokens_is_an_error():
    with pytest.raises(InputError, match="rejected answer has no tokens"):
        _tokenize(_row(rejected=" "))
    with pytest.raises(InputError, match="the prompt has no tokens"):
        _tokenize(_row(prompt=""), form=ChatFormat("", "", "<end>"))
    assert len(_tokenize(_row(prompt="")).prompt) == HEADER


def test_loading_a_tokenizer(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    assert hf_format(load_tokenizer(tmp_path)) == FORMAT
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", AUTHORS)
def test_published_tokenizers_in_both_templates(shared, name):
    tokenizer = load_tokenizer(shared / "data/tokenizers" / name)
    family, *texts = AUTHORS[name]
    authors = chat_format("authors", family.FAMILY.authors_chat, tokenizer)
    assert [authors.before, authors.between, authors.end, authors.strip] == [*texts, False]
    rows = read_rows(shared / "data/mpo/llama_mpo_data.json", allow_empty_prompt=True)[500:512]
    own = hf_format(tokenizer)
    for form in (authors, own):
        end = tokenizer.convert_tokens_to_ids(form.end)
        for row, example in zip(rows, tokenize(rows, tokenizer, form, max_length=4096), strict=True):
            for text, pair in ((row.source, example.source), (row.target, example.target)):
                assert text is not None
                assert pair is not None
                prompt, chosen = form.content(text.prompt), form.content(text.chosen)
                assert pair.prompt.tolist() == _ids(form.before + prompt + form.between, tokenizer)
                assert pair.chosen.tolist() == _ids(chosen + form.end, tokenizer)
                assert np.sum(pair.chosen == end) == np.sum(pair.rejected == end) == 1
                assert pair.chosen[-1] == pair.rejected[-1] == end
                if tokenizer.bos_token is not None:
                    assert np.flatnonzero(np.concatenate([pair.prompt, pair.chosen]) == tokenizer.bos_token_id).tolist() == [0]
                turns = [{"role": "user", "content": text.prompt}, {"role": "assistant", "content": text.chosen}]
                rendered = tokenizer.apply_chat_template(turns, tokenize=False)
                if form is own and rendered.endswith(own.end):  # the tokenizer's own ids, when it writes nothing behind the end
                    assert np.concatenate([pair.prompt, pair.chosen]).tolist() == _ids(rendered, tokenizer)


def test_the_released_rows_have_the_published_lengths(shared):
    name = "llama-3.1-8b-instruct"
    rows = read_rows(shared / "data/mpo/llama_mpo_data.json", allow_empty_prompt=True)
    tokenizer = load_tokenizer(shared / "data/tokenizers" / name)
    examples = tokenize(rows, tokenizer, llama.FAMILY.authors_chat, max_length=1024, truncation="official")

    def padded(pairs):  # the released code pads to multiples of 8
        return np.asarray([-(-(len(p.prompt) + max(len(p.chosen), len(p.rejected))) // 8) * 8 for p in pairs])

    source, target = padded([e.source for e in examples]), padded([e.target for e in examples])
    assert (source.max(), round(source.mean())) == (360, 148)
    assert (target.min(), target.max(), round(target.mean())) == (528, 1008, 587)
