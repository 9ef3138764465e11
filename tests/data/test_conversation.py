"""A conversation has the text that training, LLaMA-Factory and the tokenizer's own template give it, and every end token."""

import functools
import json

import numpy as np
import pytest
import toy_chat
from toy_chat import FORMAT

from mpo_jax.data.chat import load_tokenizer, tokenize
from mpo_jax.data.conversation import Conversation
from mpo_jax.data.prompts.base import Message
from mpo_jax.data.rows import PairText, Row
from mpo_jax.errors import InputError
from mpo_jax.models.families.registry import FAMILIES
from mpo_jax.types import ChatFormat

SYSTEM = Message("system", "Be brief.")
FIRST, ANSWER, SECOND = Message("user", " Hi\nyou. "), Message("assistant", "Hello 好."), Message("user", "Bye?")
ONE, TWO = (FIRST,), (FIRST, ANSWER, SECOND)
REAL = {"llama-3.1-8b-instruct": "llama", "qwen2.5-7b-instruct": "qwen2", "gemma-2-9b-it": "gemma2"}
QWEN_SYSTEM = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
# What LLaMA-Factory's templates llama3, qwen and gemma write: a beginning, perhaps a system message, turns with a separator.
AUTHORS = {
    "llama-3.1-8b-instruct": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n Hi\nyou. <|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello 好.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "qwen2.5-7b-instruct": (
        f"{QWEN_SYSTEM}<|im_start|>user\n Hi\nyou. <|im_end|>\n<|im_start|>assistant\nHello 好.<|im_end|>\n"
        "<|im_start|>user\nBye?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "gemma-2-9b-it": (
        "<bos><start_of_turn>user\n Hi\nyou. <end_of_turn>\n<start_of_turn>model\nHello 好.<end_of_turn>\n"
        "<start_of_turn>user\nBye?<end_of_turn>\n<start_of_turn>model\n"
    ),
}
ENDS = {
    "llama-3.1-8b-instruct": ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
    "qwen2.5-7b-instruct": ["<|im_end|>"],  # this folder has no generation_config.json
    "gemma-2-9b-it": ["<eos>", "<end_of_turn>"],  # whose generation_config.json has <eos> alone
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy")
    toy_chat.tokenizer().save_pretrained(path)
    return path


@pytest.fixture(params=REAL)
def real(request, shared):
    path = shared / "data/tokenizers" / request.param
    if not path.is_dir():
        pytest.skip(f"needs {request.param} beside the checkout")
    return path


@functools.cache  # loading Gemma's tokenizer takes a second
def of(path, template="authors") -> Conversation:
    return Conversation.of(path, FAMILIES[REAL[path.name]].authors_chat, template)


def dicts(messages):
    return [{"role": message.role, "content": message.content} for message in messages]


def prompt_ids(text: str, tokenizer, form) -> list[int]:
    row = Row("0", None, PairText("en", text, "yes", "no"), "given")
    return tokenize([row], tokenizer, form, max_length=1000)[0].target.prompt.tolist()


@pytest.mark.parametrize("template", ["authors", "hf"])
def test_one_message_is_what_training_reads(folder, template):
    toy = Conversation.of(folder, FORMAT, template)
    ids = toy.tokens(ONE)
    assert ids.dtype == np.int32
    assert ids.tolist() == prompt_ids(FIRST.content, toy.tokenizer, toy.form)


@pytest.mark.parametrize("template", ["authors", "hf"])
def test_one_message_is_what_training_reads_by_real_tokenizers(real, template):
    conversation = of(real, template)
    assert conversation.render(ONE) == conversation.form.prompt(FIRST.content)
    assert conversation.tokens(ONE).tolist() == prompt_ids(FIRST.content, conversation.tokenizer, conversation.form)


def test_turns_under_the_tokenizers_own_template(folder):
    text = "<bos><user>\nHi\nyou.<end>\n<model>\nHello 好.<end>\n<user>\nBye?<end>\n<model>\n"
    assert Conversation.of(folder, None, "hf").render(TWO) == text


@pytest.mark.parametrize("messages", [ONE, TWO, (*TWO, ANSWER, FIRST)])
def test_turns_under_real_templates(real, messages):
    tokenizer = load_tokenizer(real)
    rendered = tokenizer.apply_chat_template(dicts(messages), tokenize=True, add_generation_prompt=True)
    assert of(real, "hf").tokens(messages).tolist() == rendered["input_ids"]


def test_turns_under_the_authors_formats(real):
    assert of(real).render(TWO) == AUTHORS[real.name]


def test_a_system_message_has_the_place_that_llama_factory_gives_it(real):
    conversation = of(real)
    if real.name == "gemma-2-9b-it":
        for template, words in (("authors", "has no place for a system message: put its text"), ("hf", "System role not supp")):
            with pytest.raises(InputError, match=words):
                of(real, template).render((SYSTEM, *TWO))
        return
    before, header = {
        "llama-3.1-8b-instruct": (
            "<|begin_of_text|>",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>",
        ),
        "qwen2.5-7b-instruct": (QWEN_SYSTEM, "<|im_start|>system\nBe brief.<|im_end|>\n"),
    }[real.name]
    assert conversation.render((SYSTEM, *TWO)) == AUTHORS[real.name].replace(before, header)
    assert "Be brief." in of(real, "hf").render((SYSTEM, *ONE))


def test_every_token_that_ends_an_answer_stops_it(real):
    tokenizer = load_tokenizer(real)
    for template in ("authors", "hf"):
        assert of(real, template).stop_ids == tuple(sorted(tokenizer.convert_tokens_to_ids(ENDS[real.name])))


def test_the_authors_formats_and_no_real_tokenizer(folder):
    """The text does not depend on the tokenizer, so it is tested where no real one lies."""
    for name, family in REAL.items():
        toy = Conversation.of(folder, FORMAT, "authors")
        conversation = Conversation(toy.tokenizer, "authors", FAMILIES[family].authors_chat, toy.stop_ids)
        assert conversation.render(TWO) == AUTHORS[name]


def test_stop_ids_come_from_both_configs_and_the_format(tmp_path):
    toy_chat.tokenizer().save_pretrained(tmp_path)
    end = toy_chat.tokenizer().convert_tokens_to_ids("<end>")

    def ends(**configs):
        for name, eos in configs.items():
            (tmp_path / f"{name}.json").write_text(json.dumps({"eos_token_id": eos}))
        return Conversation.of(tmp_path, FORMAT, "hf").stop_ids

    assert ends() == (end,)
    assert ends(config=3) == (3, end)
    assert ends(generation_config=[5, 3, 4], config=None) == (3, 4, 5, end)
    assert ends(config=end) == (3, 4, 5, end)
    with pytest.raises(InputError, match=r"config.json has 'eos_token_id': 'x': write a token's id"):
        ends(config="x")
    ends(config=end)
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(InputError, match=r"generation_config.json is no JSON object"):
        ends()


def test_a_format_without_end_needs_a_config_with_one(folder):
    with pytest.raises(InputError, match="name a token that ends an answer: write eos_token_id"):
        Conversation.of(folder, ChatFormat("", "\n", "\n"), "authors")


def test_a_format_without_turns_renders_one_message(tmp_path):
    toy_chat.tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"eos_token_id": 3}')
    plain = Conversation.of(tmp_path, ChatFormat("Q: ", "\nA: ", "\n"), "authors")
    assert plain.stop_ids == (3,)
    assert plain.render(ONE) == "Q:  Hi\nyou. \nA: "
    with pytest.raises(InputError, match="does not say how an earlier answer ends: choose the template 'hf'"):
        plain.render(TWO)
    with pytest.raises(InputError, match="no place for a system message"):
        plain.render((SYSTEM, FIRST))


@pytest.mark.parametrize("messages", [(), (SYSTEM,), (FIRST, ANSWER), (FIRST, SECOND), (FIRST, SYSTEM, SECOND)])
@pytest.mark.parametrize("template", ["authors", "hf"])
def test_messages_out_of_order(folder, messages, template):
    with pytest.raises(InputError, match="A conversation cannot be answered, since"):
        Conversation.of(folder, FORMAT, template).render(messages)


def test_an_answer_is_decoded_without_end_and_special_tokens(folder, real):
    text = "  Spaces ,  and\n\n好 stay .\n "
    toy = Conversation.of(folder, FORMAT, "hf")
    for conversation, start in ((toy, "<model>"), (of(real), "")):
        ids = conversation.tokenizer(start + text, add_special_tokens=False)["input_ids"]
        assert conversation.decode([*ids, conversation.stop_ids[-1]]) == text
        assert conversation.decode(np.asarray([*ids, conversation.stop_ids[0]], np.int32)) == text
    letter = toy.tokenizer.convert_tokens_to_ids("x")
    ends_in_a_letter = Conversation(toy.tokenizer, "hf", toy.form, (letter,))
    assert ends_in_a_letter.decode(toy.tokenizer("ox", add_special_tokens=False)["input_ids"]) == "o"


def test_settings_change_with_whatever_changes_the_text(folder, tmp_path):
    settings = Conversation.of(folder, FORMAT, "hf").settings
    assert json.loads(json.dumps(settings)) == settings
    assert settings["before"] == FORMAT.before
    assert settings != Conversation.of(folder, FORMAT, "authors").settings
    later = toy_chat.TEMPLATE.replace("{% for m", "{% if messages|length > 2 %}{{ '\n' }}{% endif %}{% for m")
    toy_chat.tokenizer(later).save_pretrained(tmp_path)
    changed = Conversation.of(tmp_path, FORMAT, "hf").settings
    assert {key for key in settings if settings[key] != changed[key]} == {"chat_template"}
