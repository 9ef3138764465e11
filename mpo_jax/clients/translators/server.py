"""How does a served model translate? Any model with OpenAI's interface, asked for the translation alone."""

import re
from collections.abc import Callable
from pathlib import Path

from mpo_jax.clients.translators.base import Translator, name_of
from mpo_jax.data.json_objects import read_text
from mpo_jax.data.prompts.base import Message
from mpo_jax.errors import InputError
from mpo_jax.generation.base import Responder

PROMPT = "Translate the following text into {target}. Output only the translation.\n\n{text}"
_SLOT = re.compile(r"\{(source|target|text)\}")


def read_prompt(path: Path) -> str:
    """Another wording, from a file of text. Errors: one that does not say where the text goes."""
    prompt = read_text(path)
    if _SLOT.findall(prompt).count("text") != 1:
        raise InputError(
            f"{path} must have {{text}} once, where the text goes; it may have {{source}} and {{target}}, the languages."
        )
    return prompt


def translator(responder: Callable[[], Responder], target: str, called: str, prompt: str = PROMPT) -> Translator:
    """`called`: the name of the model that translates."""

    told = "{source}" in prompt

    def messages(text: str, language: str) -> tuple[Message, ...]:
        texts = {"target": name_of(target), "text": text}
        if told:
            texts["source"] = name_of(language)
        return (Message("user", _SLOT.sub(lambda slot: texts[slot[1]], prompt)),)

    return Translator(f"server-{called}", target, messages, responder, told=told)
