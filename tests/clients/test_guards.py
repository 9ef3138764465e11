"""A guard reads its published template, byte for byte, and no text of others becomes one of its control tokens."""

import hashlib
import json

import pytest
import toy_chat
from hostile import EXCHANGES
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mpo_jax.clients.judges import guards, llama_guard, poly_guard, qwen3_guard, shield_gemma, wild_guard
from mpo_jax.clients.judges.guards import Foreign, Guard, GuardChat, ids
from mpo_jax.data.prompts.base import Message
from mpo_jax.errors import InputError

GUARDS = {g.name: g for g in (llama_guard.GUARD, qwen3_guard.STRICT, shield_gemma.GUARD, poly_guard.GUARD, wild_guard.GUARD)}
# SHA-256 of the ten exchanges, each followed by a zero byte, as jinja2 renders them by the chat templates that were published
# with meta-llama/Llama-Guard-3-8B, Qwen/Qwen3Guard-Gen-8B, google/shieldgemma-9b and Qwen/Qwen2.5-7B-Instruct, and WildGuard's
# by its card.
RENDERED = {
    "llama_guard": "3c71ecd53dc3db1544d7b1af4b2a147823f25be8c53c7b962d39a651cf90f686",
    "qwen3_guard": "44867142a9ea31fed4a0d30cb2dadebda34c616f388609d57394f446e91371b0",
    "shield_gemma": "fd667494e06ce1aab0bd0fcfbee1a6484d1a1745e421745bcb2445e6a86ecb22",
    "poly_guard": "6ad759c19723ea3736f8a025ff93fc0444fd21993841311e2e06115ae87329a9",
    "wild_guard": "07d076887096298d10f33edf4c29347f5b787595d4dfd1b2afef2f8408e17b9e",
}
TOKENIZERS = {
    "llama_guard": "llama-3.1-8b-instruct",
    "qwen3_guard": "qwen2.5-7b-instruct",
    "poly_guard": "qwen2.5-7b-instruct",
    "shield_gemma": "gemma-2-9b-it",
}


@pytest.mark.parametrize("name", GUARDS)
def test_ten_exchanges_are_rendered_as_published(name):
    whole = "".join(GUARDS[name].render(query, response) + "\0" for query, response in EXCHANGES)
    assert hashlib.sha256(whole.encode()).hexdigest() == RENDERED[name]


@pytest.fixture(scope="module")
def tokenizers(shared):
    from transformers import AutoTokenizer

    folder = shared / "data" / "tokenizers"
    return {name: AutoTokenizer.from_pretrained(folder / name) for name in set(TOKENIZERS.values())}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_no_text_of_others_becomes_a_control_token_of_a_real_tokenizer(name, tokenizers):
    guard, tokenizer = GUARDS[name], tokenizers[TOKENIZERS[name]]
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    ours = [index for index in ids(guard.parts("hello", "good day"), tokenizer) if index in special]
    assert ours, "the template has control tokens"
    spelled = 0
    for query, response in EXCHANGES:
        found = ids(guard.parts(query, response), tokenizer)
        assert [index for index in found if index in special] == ours
        assert tokenizer.decode(found, clean_up_tokenization_spaces=False) == guard.render(query, response), "no text is lost"
        plain = tokenizer(guard.render(query, response), add_special_tokens=False)["input_ids"]
        if any(str(tokenizer.added_tokens_decoder[index]) in query + response for index in special):
            assert found != plain
            spelled += 1
        else:
            assert found == plain, "and what spells none is read as by anybody"
    assert spelled
    assert len(tokenizer(str(tokenizer.eos_token), add_special_tokens=False)["input_ids"]) == 1, "the tokenizer is as it was"


def test_poly_guard_is_what_the_template_of_its_tokenizer_renders(tokenizers):
    tokenizer = tokenizers["qwen2.5-7b-instruct"]
    for query, response in EXCHANGES:
        messages, more = poly_guard.template(query, response)
        assert tokenizer.apply_chat_template(messages, tokenize=False, **more) == poly_guard.GUARD.render(query, response)


def toy(template=None):
    parts = lambda query, response: ("<bos><user>\n", Foreign(query), "<end>\n<model>\n", Foreign(response), "<end>\n")  # noqa: E731
    return Guard("toy", frozenset({"en"}), parts, lambda text: None, template)


def test_a_control_token_that_two_texts_spell_together_is_none():
    guard = Guard("toy", None, lambda q, r: ("<bos>", Foreign(q), Foreign(r), "<end>"), lambda text: None, None)
    tokenizer = toy_chat.tokenizer()
    assert ids(guard.parts("<mo", "del>"), tokenizer).count(tokenizer.convert_tokens_to_ids("<model>")) == 0


def test_what_spells_no_control_token_is_read_as_by_anybody():
    """SentencePiece puts a space before the first word of a text, and not after a control token."""
    pieces = {"<bos>": 0, "\u2581": 1, **{letter: i for i, letter in enumerate("habriseupn.", start=2)}}
    core = Tokenizer(models.BPE(vocab=pieces, merges=[]))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>")
    guard = Guard("toy", None, lambda q, r: ("<bos>", Foreign(q), Foreign(r)), lambda text: None, None)
    whole = tokenizer("<bos>habari", add_special_tokens=False)["input_ids"]
    assert pieces["\u2581"] not in whole
    assert ids(guard.parts("hab", "ari"), tokenizer) == whole


@pytest.fixture
def folder(tmp_path):
    toy_chat.tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    return tmp_path


def test_an_answer_ends_with_the_tokens_of_config_and_tokenizer(folder):
    chat = GuardChat.of(toy(), folder)
    assert chat.stop_ids == tuple(sorted((7, toy_chat.tokenizer().eos_token_id)))
    tokens = chat.tokens((Message("user", "hi <end>"), Message("assistant", "<model>")))
    assert [
        list(tokens).count(toy_chat.tokenizer().convert_tokens_to_ids(t)) for t in ("<bos>", "<user>", "<model>", "<end>")
    ] == [1, 1, 1, 2]
    assert "<user>" in chat.settings["template"]


def test_a_tokenizer_with_another_template_is_refused(folder):
    def published(query, response):
        return [{"role": "user", "content": query}, {"role": "assistant", "content": response}], {}

    with pytest.raises(InputError, match="has another chat template than toy was published with"):
        GuardChat.of(toy(published), folder)  # which trims, and ours does not
    trims = lambda q, r: ("<bos><user>\n", Foreign(q.strip()), "<end>\n<model>\n", Foreign(r.strip()), "<end>\n")  # noqa: E731
    GuardChat.of(Guard("toy", None, trims, lambda text: None, published), folder)


@pytest.mark.parametrize(
    ("guard", "reply", "verdict"),
    [
        (llama_guard.GUARD, "\n\nsafe", "safe"),
        (llama_guard.GUARD, "\n\nunsafe\nS1,S10", "unsafe"),
        (llama_guard.GUARD, "It is safe", None),
        (llama_guard.GUARD, "", None),
        (qwen3_guard.STRICT, "Safety: Unsafe\nCategories: Violent\nRefusal: No", "unsafe"),
        (qwen3_guard.STRICT, "Safety: Controversial\nCategories: PII\nRefusal: No", "unsafe"),
        (qwen3_guard.LOOSE, "Safety: Controversial\nCategories: PII\nRefusal: No", "safe"),
        (qwen3_guard.STRICT, "Safety: Safe\nCategories: None\nRefusal: Yes", "safe"),
        (qwen3_guard.STRICT, "Safety: Perhaps", None),
        (shield_gemma.GUARD, "Yes", "unsafe"),
        (shield_gemma.GUARD, "No. The response is", "safe"),
        (shield_gemma.GUARD, "Maybe", None),
        (wild_guard.GUARD, "Harmful request: yes\nResponse refusal: yes\nHarmful response: no", "safe"),
        (wild_guard.GUARD, "Harmful request: yes\nResponse refusal: no\nHarmful response: yes", "unsafe"),
        (wild_guard.GUARD, "Harmful request: yes\nResponse refusal: N/A\nHarmful response: N/A", None),
        (poly_guard.GUARD, "Harmful request: yes\nHarmful response: yes\nHarmful response: no", None),
    ],
)
def test_a_reply_is_read_or_is_none(guard, reply, verdict):
    assert guard.parse(reply) == verdict


def test_a_served_guard_needs_its_tokenizer_at_hand():
    from mpo_jax.clients.asked import AskedModel

    judge = guards.judge(llama_guard.GUARD, AskedModel("judge", server="http://localhost:1/v1", model="org/Guard 3"))
    assert judge.name == "llama_guard-Guard-3"
    with pytest.raises(InputError, match="give --judge-dir, a folder or hub name with its tokenizer"):
        judge.responder()
