"""A format is taken only by a tokenizer that reads each of its special tokens as one."""

import dataclasses
import re

import pytest
import toy_chat
from tokenizers import Tokenizer, decoders, models, normalizers
from toy_chat import FORMAT
from transformers import PreTrainedTokenizerFast

from mpo_jax.data.chat import tokenize
from mpo_jax.data.chat_format import chat_format, hf_format
from mpo_jax.data.rows import PairText, Row
from mpo_jax.errors import InputError
from mpo_jax.models.families.registry import FAMILIES
from mpo_jax.types import ChatFormat

TOKENIZER = toy_chat.tokenizer()
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def llama_2(template: str = LLAMA_2) -> PreTrainedTokenizerFast:
    """Few tokens, but as Llama 2 has them: a space is a letter, and one is put before every text."""
    letters = ["▁", *map(chr, range(33, 127))]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *bytes_, *letters, "▁▁", "▁O"])}
    core = Tokenizer(models.BPE(vocabulary, [("▁", "▁"), ("▁", "O")], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = template
    return fast


def test_the_format_of_a_template_is_found_and_verified():
    assert hf_format(TOKENIZER) == FORMAT == chat_format("hf", None, TOKENIZER)
    unstripped = toy_chat.tokenizer(toy_chat.TEMPLATE.replace(" | trim", ""))
    assert hf_format(unstripped) == dataclasses.replace(FORMAT, strip=False)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "no chat template"),
        (toy_chat.TEMPLATE.replace("m.content", "m.content | upper"), "more than put fixed text"),
        (toy_chat.TEMPLATE.replace("m.content | trim", "m.content.split('\n')[0]"), "more than put fixed text"),
        (toy_chat.TEMPLATE.replace("<end>", ""), "more than put fixed text"),
        # this tokenizer puts no space before a text, so the answer's first token would be another one
        (toy_chat.TEMPLATE.replace("{{ m.content", "{{ ' ' if m.role == 'assistant' }}{{ m.content"), "more than put fixed text"),
        ("{{ raise_exception('only tools') }}", "fails on a plain question"),
    ],
)
def test_templates_that_are_not_text_around_messages(template, words):
    with pytest.raises(InputError, match=words):
        hf_format(toy_chat.tokenizer(template))


def test_llama_2_is_read_by_its_own_template():
    tokenizer = llama_2()
    form = chat_format("hf", FAMILIES["llama"].authors_chat, tokenizer)
    assert form == ChatFormat("<s>[INST] ", " [/INST]", " </s>", strip=True, special_tokens=("<s>", "</s>"))
    row = Row("0", None, PairText("en", " Which one?", "One of\nthem.", "Öne."), "given")
    pair = tokenize([row], tokenizer, form, max_length=100)[0].target
    for answer, ids in (("One of\nthem.", pair.chosen), ("Öne.", pair.rejected)):
        turns = [{"role": "user", "content": row.target.prompt}, {"role": "assistant", "content": answer}]
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
        assert [*pair.prompt, *ids] == tokenizer(rendered, add_special_tokens=False)["input_ids"]
        assert ids[-1] == tokenizer.eos_token_id


def test_a_format_whose_special_tokens_the_tokenizer_lacks_is_refused():
    words = r"'authors' needs the special tokens <\|begin_of_text\|>, .*<\|eot_id\|>, which .* choose the template 'hf'"
    for tokenizer in (llama_2(), TOKENIZER):
        with pytest.raises(InputError, match=words):
            chat_format("authors", FAMILIES["llama"].authors_chat, tokenizer)
    nothing = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")))
    with pytest.raises(InputError, match=r"special tokens <s>, which"):  # an unknown token is one id too
        chat_format("authors", ChatFormat("<s>", "", "", special_tokens=("<s>",)), nothing)
    with pytest.raises(InputError, match="published no chat format"):
        chat_format("authors", None, TOKENIZER)


def test_a_tokenizer_that_splits_special_tokens_is_refused():
    tokenizer = llama_2()
    tokenizer.split_special_tokens = True
    tokenizer.backend_tokenizer.encode_special_tokens = True
    with pytest.raises(InputError, match=r"'hf' needs the special tokens <s>, </s>, .*split_special_tokens"):
        chat_format("hf", None, tokenizer)


def test_what_only_looks_like_a_token_is_text():
    """Templates such as Zephyr's write <|user|> for tokenizers that have no such token."""
    template = toy_chat.TEMPLATE.replace("<user>", "<|user|>")
    assert chat_format("hf", None, toy_chat.tokenizer(template)).special_tokens == ("<bos>", "<end>", "<model>")


THINKING = (
    "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<model>' }}\n"
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{{ m.content.lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<end>\n"
    "{% endfor %}{% if add_generation_prompt %}<model>\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def test_a_model_that_may_think_answers_without_thoughts():
    """As Qwen3's template does it: an empty thought is part of the prompt, and an answer's first newlines are removed."""
    tokenizer = toy_chat.tokenizer(THINKING)
    form = hf_format(tokenizer)
    assert form.between == "<end>\n<model>\n<think>\n\n</think>\n\n" and form.skip_newlines and not form.strip
    assert form.prompt(" Why?") == "<user>\n Why?<end>\n<model>\n<think>\n\n</think>\n\n"
    assert form.response("\n\n So. ") == " So. <end>"


@pytest.mark.parametrize("family", [family for family in FAMILIES.values() if family.authors_chat], ids=lambda f: f.model_type)
def test_the_authors_formats_name_all_their_special_tokens(family):
    form = family.authors_chat
    text = form.before + form.between + form.end
    assert list(form.special_tokens) == list(dict.fromkeys(re.findall(r"<[^<>\s]+>", text)))
