"""How does a guard model read an exchange? Its published template, literally, in which no foreign text becomes a control token.

A guard's prompt is a list of parts, ours and foreign. Where a foreign text spells a special token of the tokenizer, the parts
between our own special tokens are tokenised as text alone; otherwise the whole is tokenised as anybody would. Tokens, not text,
go to the engine or to a server's completions endpoint, so a guard needs its tokenizer at hand.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mpo_jax.clients.asked import AskedModel
from mpo_jax.clients.judges.base import TWO_CLASSES, Judge
from mpo_jax.data.chat import load_tokenizer
from mpo_jax.data.conversation import ends_of_config
from mpo_jax.data.prompts.base import Message
from mpo_jax.errors import InputError
from mpo_jax.generation.base import Decoding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Foreign(str):
    """A text that somebody else wrote."""

    __slots__ = ()


Parts = tuple[str, ...]  # those that are `Foreign`, and our own between them
PROBES = (("Habari?\n", "{Nzuri} sana."), (" a ", "\tb\n\n"))  # exchanges that show how a template treats white space


@dataclasses.dataclass(frozen=True)
class Guard:
    """`languages`: those that its makers name. `parts` renders (query, response). `parse` reads a reply: "safe", "unsafe", None.

    `template`: how the guard's card uses the chat template of its tokenizer: (query, response) -> messages, and variables; None
    where the card gives a text instead. `most`: tokens of a reply.
    """

    name: str
    languages: frozenset[str] | None
    parts: Callable[[str, str], Parts]
    parse: Callable[[str], str | None]
    template: Callable[[str, str], tuple[list[dict[str, str]], dict[str, Any]]] | None
    most: int = 32

    def render(self, query: str, response: str) -> str:
        return "".join(self.parts(query, response))


@dataclasses.dataclass(frozen=True)
class GuardChat:
    """A guard's form of a conversation: a user's message and the response that it judges. See `generation.base.Chat`."""

    guard: Guard
    tokenizer: "PreTrainedTokenizerFast"
    stop_ids: tuple[int, ...]

    @classmethod
    def of(cls, guard: Guard, folder: Path) -> "GuardChat":
        """Errors: those of `load_tokenizer`; a tokenizer whose own chat template renders something else."""
        tokenizer = load_tokenizer(folder)
        _check(guard, tokenizer, folder)
        ends = ends_of_config(folder)
        if isinstance(tokenizer.eos_token_id, int):
            ends.add(tokenizer.eos_token_id)
        return cls(guard, tokenizer, tuple(sorted(ends)))

    @property
    def settings(self) -> dict[str, Any]:
        return {"guard": self.guard.name, "template": self.guard.render("{query}", "{response}")}

    def tokens(self, messages: Sequence[Message]) -> np.ndarray:
        query, response = (message.content for message in messages)
        return np.asarray(ids(self.guard.parts(query, response), self.tokenizer), np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def ids(parts: Parts, tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """The token ids of a rendered prompt, in which special tokens are ours."""
    special = sorted((str(token) for token in tokenizer.added_tokens_decoder.values() if token.special), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, special)))
    # Two parts may spell a token together, so the text between our own special tokens is searched as a whole.
    pieces = [""]
    for part in parts:
        if isinstance(part, Foreign):
            pieces[-1] += part
            continue
        at = 0
        for found in pattern.finditer(part):
            pieces[-1] += part[at : found.start()]
            pieces += [found[0], ""]
            at = found.end()
        pieces[-1] += part[at:]
    if not any(pattern.search(piece) for piece in pieces[::2]):
        return list(tokenizer("".join(pieces), add_special_tokens=False, verbose=False)["input_ids"])
    found_ids: list[int] = []
    for i, piece in enumerate(pieces):
        if i % 2:
            found_ids.append(cast(int, tokenizer.convert_tokens_to_ids(piece)))
        elif piece:
            text = tokenizer(piece, add_special_tokens=False, split_special_tokens=True, verbose=False)
            found_ids += text["input_ids"]
    return found_ids


def judge(guard: Guard, model: AskedModel) -> Judge:
    return Judge(
        name=f"{guard.name}-{model.called}",
        scale=TWO_CLASSES,
        languages=guard.languages,
        messages=lambda query, response: (Message("user", query), Message("assistant", response)),
        parse=guard.parse,
        responder=lambda: model.responder(Decoding(max_new_tokens=guard.most), lambda folder: GuardChat.of(guard, folder)),
    )


def _check(guard: Guard, tokenizer: "PreTrainedTokenizerFast", folder: Path) -> None:
    if guard.template is None or not tokenizer.chat_template:
        return
    for query, response in PROBES:
        messages, variables = guard.template(query, response)
        if tokenizer.apply_chat_template(messages, tokenize=False, **variables) != guard.render(query, response):
            raise InputError(
                f"The tokenizer in {folder} has another chat template than {guard.name} was published with: give the guard's own "
                "folder, or choose the judge that it is."
            )
