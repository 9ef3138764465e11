"""Under any chat format, tokens are those of the literal text, cut as the rule says, or there is a sentence."""

import copy
from pathlib import Path

import pytest
import toy_chat
from hypothesis import example, given
from hypothesis import strategies as st
from outcome import outcome

from mpo_jax.data.chat import TRUNCATIONS, TokenPair, load_tokenizer, tokenize
from mpo_jax.data.chat_format import hf_format
from mpo_jax.data.rows import PairText, Row
from mpo_jax.errors import InputError
from mpo_jax.types import ChatFormat

# Of bytes, and of pieces of words in six languages, which may reach over the border of format and message.
TOKENIZERS = {
    "bytes": toy_chat.tokenizer(),
    "pieces": load_tokenizer(Path(__file__).resolve().parents[2] / "quickstart" / "model"),
}
PIECES = ["<bos>", "<user>", "<end>", "<|eot_id|>", "user", "ask", "n", " ", "\n", "\n\n", "你", "🙂", "e\u0301", "\x00", ":"]
text = st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=8)
forms = st.builds(ChatFormat, text, text, st.sampled_from(["<end>", "<|eot_id|>", "", "\n"]) | text, st.booleans())
answer = st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join)
pairs = st.builds(PairText, st.just("en"), text, answer, answer)


def tokens(name: str, form: ChatFormat, pair: PairText, limit: int, truncation: str) -> TokenPair | InputError:
    row = Row("seven", None, pair, "given")
    return outcome(lambda: tokenize([row], TOKENIZERS[name], form, max_length=limit, truncation=truncation)[0].target)


@given(st.sampled_from(sorted(TOKENIZERS)), forms, pairs, st.integers(0, 60), st.sampled_from(TRUNCATIONS))
@example("bytes", ChatFormat("", "", "<end>"), PairText("en", "", "a", "b"), 10, "keep_header")
@example("bytes", ChatFormat("<bos>", "", ""), PairText("en", "a", " ", "b"), 10, "official")
@example("bytes", ChatFormat("<bos>", "", ""), PairText("en", "a" * 50, "a", "b"), 2, "official")
def test_any_format_ends_in_tokens_or_in_a_sentence(name, form, pair, limit, truncation):
    tokenizer = TOKENIZERS[name]
    whole = tokens(name, form, pair, 10**6, truncation)
    cut = tokens(name, form, pair, limit, truncation)
    if isinstance(whole, InputError):
        assert isinstance(cut, InputError)
        return
    ids = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    assert whole.prompt.tolist() == ids(form.prompt(pair.prompt))
    assert whole.chosen.tolist() == ids(form.response(pair.chosen))
    assert whole.rejected.tolist() == ids(form.response(pair.rejected))
    assert (whole.truncated_prompt, whole.truncated_chosen, whole.truncated_rejected) == (0, 0, 0)
    if isinstance(cut, InputError):
        return
    longest = max(len(cut.chosen), len(cut.rejected))
    assert min(len(cut.prompt), len(cut.chosen), len(cut.rejected)) > 0
    assert len(cut.prompt) + longest <= limit
    for part in ("prompt", "chosen", "rejected"):
        assert len(getattr(cut, part)) + getattr(cut, f"truncated_{part}") == len(getattr(whole, part))
    for part in ("chosen", "rejected"):
        assert getattr(cut, part).tolist() == getattr(whole, part)[: len(getattr(cut, part))].tolist()
    if truncation == "official":
        assert cut.prompt.tolist() == whole.prompt[: len(cut.prompt)].tolist()
    if truncation == "keep_header":
        start, stop = len(form.before), len(form.before + form.content(pair.prompt))
        spans = tokenizer(form.prompt(pair.prompt), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        of_message = [k for k, (begin, end) in enumerate(spans) if start <= begin and end <= stop]
        kept = set(range(len(spans))) - set(of_message[: cut.truncated_prompt])
        assert cut.prompt.tolist() == [whole.prompt[k] for k in sorted(kept)], "the format, and the end of the message"
        if cut.truncated_prompt or cut.truncated_chosen or cut.truncated_rejected:
            assert len(cut.prompt) + longest == limit, "as little as needed"
    if truncation == "error" or len(whole.prompt) + max(len(whole.chosen), len(whole.rejected)) <= limit:
        assert not (cut.truncated_prompt or cut.truncated_chosen or cut.truncated_rejected)


literal = st.lists(st.sampled_from(["<user>", "<model>", "<end>", "user", " ", "\n", "{{ bos_token }}"]), max_size=3).map("".join)
CHANGED = ["{{ m.content | upper }}", "{{ m.content[1:] }}", "{{ m.content | trim }}{{ m.content }}", ""]
said = st.sampled_from(["{{ m.content }}", "{{ m.content | trim }}"] * 3 + CHANGED)
ANYTHING = [
    "{{ 1 / 0 }}",
    "{{ m.x.y }}",
    "{{ messages[7].content }}",
    "{{ raise_exception('no') }}",
    "{{",
    "{% for %}",
    "{{ 'a' + 1 }}",
]


@st.composite
def templates(draw) -> str:
    """Mostly fixed text around two messages."""
    user, model = draw(literal) + draw(said) + draw(literal), draw(literal)
    turns = f"{{% if m.role == 'user' %}}{user}{{% else %}}{model}{draw(said)}<end>{draw(literal)}{{% endif %}}"
    opening = draw(st.sampled_from([model, model, model, "<model>"]))
    template = (
        f"{draw(literal)}{{% for m in messages %}}{turns}{{% endfor %}}{{% if add_generation_prompt %}}{opening}{{% endif %}}"
    )
    cut = draw(st.integers(0, 4 * len(template)))  # mostly none
    return template[:cut] + (draw(st.sampled_from(ANYTHING)) if cut < len(template) else "") + template[cut:]


@pytest.fixture(scope="module")
def templated():
    return copy.deepcopy(toy_chat.tokenizer())


@given(template=templates(), question=st.sampled_from(["why?", " a\n"]), answer=st.sampled_from(["because", "\nno "]))
@example(toy_chat.TEMPLATE, "why?", "because")
@example(toy_chat.TEMPLATE + "{{ 1 / 0 }}", "why?", "because")
def test_any_template_is_a_format_of_its_text_or_ends_in_a_sentence(templated, template, question, answer):
    templated.chat_template = template
    form = outcome(lambda: hf_format(templated))
    if not isinstance(form, InputError):
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        whole = templated.apply_chat_template(turns, tokenize=False)
        assert whole.startswith(form.prompt(question))
        assert whole.removeprefix(form.prompt(question)).lstrip().startswith(form.response(answer).lstrip())
