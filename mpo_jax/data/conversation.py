"""How is a conversation rendered for the model to go on, and which tokens end what it writes?

One user message is rendered exactly as training renders a prompt (`data.chat`). How an earlier answer is followed by the next
message is taken from the same format: its text between a message and an answer is what closes a turn, then a header.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mpo_jax.data.chat import load_tokenizer
from mpo_jax.data.chat_format import WITHOUT_THOUGHTS, chat_format
from mpo_jax.data.json_objects import read_text
from mpo_jax.data.prompts.base import Message, misplaced
from mpo_jax.errors import InputError
from mpo_jax.files.paths import path_of
from mpo_jax.types import ChatFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Text and tokens of conversations under one chat format. `stop_ids`: the ids of the tokens that end an answer, ascending."""

    tokenizer: "PreTrainedTokenizerFast"
    template: str
    form: ChatFormat
    stop_ids: tuple[int, ...]

    @classmethod
    def of(cls, model_dir: str | Path, authors: ChatFormat | None, template: str) -> "Conversation":
        """Of a Hugging Face folder, whose generation_config.json and config.json name end tokens; those of the chat format are
        added, since many published configs lack them. `template`: "authors" (the format of the model's family) or "hf".

        Errors: those of `load_tokenizer` and `chat_format`; configs that are no JSON; no end token at all.
        """
        tokenizer = load_tokenizer(model_dir)
        form = chat_format(template, authors, tokenizer)
        ends = {*ends_of_config(path_of(model_dir)), *_ends_of_format(form, tokenizer)}
        if not ends:
            raise InputError(
                f"Neither the configs in {model_dir} nor the chat format '{template}' name a token that ends an answer: write "
                "eos_token_id into its generation_config.json."
            )
        return cls(tokenizer, template, form, tuple(sorted(ends)))

    def render(self, messages: Sequence[Message]) -> str:
        """The text up to where the model's answer begins.

        Errors: messages that do not take turns and end with the user's; a system message that the format has no place for; what
        the tokenizer's own template refuses.
        """
        if problem := misplaced(messages):
            raise InputError(f"A conversation cannot be answered, since {problem}.")
        if self.template == "hf":
            return self._by_tokenizer(messages)
        parts = _turns(self.form)
        before, turns = self.form.before, [message for message in messages if message.role != "system"]
        if len(turns) < len(messages):
            system = self.form.content(messages[0].content)
            before = parts.before(system) if parts else None
            if before is None:
                raise InputError(
                    f"The chat format '{self.template}' of the model in {self.tokenizer.name_or_path} has no place for a system "
                    "message: put its text at the start of the user's message."
                )
        if len(turns) == 1:
            return before + self.form.content(turns[0].content) + self.form.between
        if parts is None:
            raise InputError(
                f"The chat format '{self.template}' of the model in {self.tokenizer.name_or_path} does not say how an earlier "
                "answer ends: choose the template 'hf'."
            )
        after = {"user": self.form.between, "assistant": parts.close + parts.user}
        return before + "".join(self.form.content(turn.content) + after[turn.role] for turn in turns)

    def tokens(self, messages: Sequence[Message]) -> np.ndarray:
        """The ids of the rendered text, int32 of rank 1. Special tokens that a message spells out become those tokens, as in
        training. Errors: those of `render`."""
        return np.asarray(self.tokenizer(self.render(messages), add_special_tokens=False, verbose=False)["input_ids"], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of an answer, without end and special tokens; white space stays as it is, even where the tokenizer's config
        asks for a clean-up, as Llama's does."""
        kept = [int(i) for i in ids if int(i) not in self.stop_ids]  # a tokenizer may have an end token that is not special
        return cast(str, self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @property
    def settings(self) -> dict[str, Any]:
        """Everything here that determines an answer, beside the tokenizer's vocabulary, as JSON."""
        known = {"template": self.template, "before": self.form.before, "between": self.form.between, "end": self.form.end}
        known |= {"strip": self.form.strip, "stop_ids": list(self.stop_ids)}
        if self.form.skip_newlines:
            known["skip_newlines"] = True
        if self.template == "hf":
            text = json.dumps(self.tokenizer.chat_template)
            known["chat_template"] = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return known

    def _by_tokenizer(self, messages: Sequence[Message]) -> str:
        turns = [dataclasses.asdict(message) for message in messages]
        try:
            return cast(
                str, self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **WITHOUT_THOUGHTS)
            )
        except Exception as error:  # a template is a program, which can fail in any way
            raise InputError(
                f"The chat template of the tokenizer in {self.tokenizer.name_or_path} refuses a conversation of "
                f"{', '.join(message.role for message in messages)} ({error}): give one that it has roles for, such as a "
                "system message's text at the start of the user's."
            ) from None


@dataclasses.dataclass(frozen=True)
class _Turns:
    """The parts of a format that has turns: what precedes all of them, what closes one, and what opens one of each role."""

    prefix: str
    close: str
    user: str
    assistant: str

    def before(self, system: str) -> str | None:
        """What precedes the first user message after this system message, which takes the place of the format's own; None where
        headers do not consist of the role's name, so that the format has none for a system."""
        if self.user.replace("user", "assistant") != self.assistant:
            return None
        header = self.user.replace("user", "system")
        return self.prefix.partition(header)[0] + header + system + self.close + self.user


def _turns(form: ChatFormat) -> _Turns | None:
    """Between a message and an answer stands the special token that closes a turn, perhaps text, then the special token that
    opens the next. None where the text is not so."""
    found = sorted((form.between.index(token), token) for token in form.special_tokens if token in form.between)
    if len(found) < 2 or found[1][1] not in form.before:
        return None
    opens, opener = found[1]
    header = form.before.rindex(opener)
    return _Turns(form.before[:header], form.between[:opens], form.before[header:], form.between[opens:])


def _ends_of_format(form: ChatFormat, tokenizer: "PreTrainedTokenizerFast") -> set[int]:
    """The first special token of an answer's end, and the one that closes a turn: the authors' Gemma ends its last answer with
    <eos>, but earlier ones, as the published model ends all, with <end_of_turn>."""
    turns = _turns(form)
    texts = [form.end, turns.close if turns else ""]
    found = [[(text.index(token), token) for token in form.special_tokens if token in text] for text in texts]
    return {cast(int, tokenizer.convert_tokens_to_ids(min(tokens)[1])) for tokens in found if tokens}


def ends_of_config(folder: Path) -> set[int]:
    """The end tokens that generation_config.json and config.json of a folder name. Errors: configs that are no JSON."""
    ends: set[int] = set()
    for path in (folder / "generation_config.json", folder / "config.json"):
        if not path.is_file():
            continue
        try:
            found = json.loads(read_text(path)).get("eos_token_id")
        except (ValueError, AttributeError):
            raise InputError(f"{path} is no JSON object: use the published one.") from None
        listed = found if isinstance(found, list) else [] if found is None else [found]
        if not all(type(token) is int for token in listed):
            raise InputError(f"{path} has 'eos_token_id': {found!r}: write a token's id, or a list of ids.")
        ends |= {*listed}
    return ends
