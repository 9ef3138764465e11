"""Which text surrounds a prompt and an answer? The authors' chat format or the tokenizer's own, checked against the tokenizer."""

from typing import TYPE_CHECKING, Any, cast

from mpo_jax.errors import InputError, check_choice
from mpo_jax.types import ChatFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEMPLATES = ("authors", "hf")
WITHOUT_THOUGHTS: dict[str, Any] = {
    "enable_thinking": False
}  # what templates of models that may think first ask for; others ignore it


def chat_format(template: str, authors: ChatFormat | None, tokenizer: "PreTrainedTokenizerFast") -> ChatFormat:
    """'authors': what MPO's authors wrote for this family of models; 'hf': the tokenizer's own chat template.

    Errors: a family that the authors did not train; special tokens of the format that this tokenizer would split; those of
    `hf_format`.
    """
    check_choice("template", template, TEMPLATES)
    if template == "hf":
        form, advice = hf_format(tokenizer), "set split_special_tokens to false in its tokenizer_config.json"
    elif authors is not None:
        form, advice = authors, "choose the template 'hf', which is the tokenizer's own"
    else:
        raise InputError("MPO's authors published no chat format for this family of models: choose the template 'hf'.")
    if cut := [token for token in form.special_tokens if not is_one_token(token, tokenizer)]:
        raise InputError(
            f"The chat format '{template}' needs the special tokens {', '.join(cut)}, which the tokenizer in "
            f"{tokenizer.name_or_path} does not have or splits into several tokens: {advice}."
        )
    return form


def is_one_token(text: str, tokenizer: "PreTrainedTokenizerFast") -> bool:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return len(ids) == 1 and tokenizer.decode(ids) == text


def hf_format(tokenizer: "PreTrainedTokenizerFast") -> ChatFormat:
    """The format of the tokenizer's own chat template, found by rendering one exchange and verified on another.

    The end is cut after its first special token: some templates add a newline there, which the model is not meant to write. Text
    before the answer, such as the space in Llama 2's template, is left out where the tokenizer adds it anyway. A template that
    lets a model think first, such as Qwen3's, is rendered for an answer without thoughts.
    Errors: no template; a template that is not text around two messages, such as one that rewrites them.
    """
    where = f"tokenizer in {tokenizer.name_or_path}"
    if tokenizer.chat_template is None:
        raise InputError(f"The {where} has no chat template: choose the template 'authors', or give the tokenizer one.")
    refusal = InputError(
        f"The chat template of the {where} does more than put fixed text around a question and an answer: choose the template "
        "'authors', or give the tokenizer a simpler one."
    )
    question, answer = "Question-7f3a", "Answer-9c1b"
    opening, whole = _render(tokenizer, question, answer)
    if opening.count(question) != 1 or not whole.startswith(opening) or whole.count(answer) != 1:
        raise refusal
    before, between = opening.split(question)
    lead, tail = whole[len(opening) :].split(answer)
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    ends = [tail.index(token) + len(token) for token in special if token in tail]
    if not ends:
        raise refusal
    end = tail[: min(ends)]
    text = before + between + end
    used = tuple(sorted((token for token in special if token in text), key=text.index))
    probes = ("  Two\nlines, \u00e9?\n", "\n One  line. ")
    for strip, skip_newlines in ((False, False), (True, False), (False, True)):
        form = ChatFormat(before, between, end, strip, used, skip_newlines)
        opening = form.prompt(probes[0])
        as_rendered = _render(tokenizer, *probes) == (opening, opening + lead + form.response(probes[1]) + tail[len(end) :])
        if as_rendered and (not lead or _adds(tokenizer, lead, opening, form.response(probes[1]))):
            return form
    raise refusal


def _adds(tokenizer: "PreTrainedTokenizerFast", lead: str, opening: str, response: str) -> bool:
    """Whether a response tokenised by itself begins with the tokens that it has after an opening and `lead`."""
    apart = tokenizer([opening, response], add_special_tokens=False)["input_ids"]
    return [*apart[0], *apart[1]] == tokenizer(opening + lead + response, add_special_tokens=False)["input_ids"]


def _render(tokenizer: "PreTrainedTokenizerFast", question: str, answer: str) -> tuple[str, str]:
    """The text up to where the model's answer begins, and the whole exchange."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    try:
        opening = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True, **WITHOUT_THOUGHTS)
        return cast(str, opening), cast(str, tokenizer.apply_chat_template(turns, tokenize=False, **WITHOUT_THOUGHTS))
    except Exception as error:  # a template is a program, which can fail in any way
        raise InputError(
            f"The chat template of the tokenizer in {tokenizer.name_or_path} fails on a plain question and answer ({error}): "
            "choose the template 'authors', or give the tokenizer a simpler one."
        ) from None
