"""How are the prompts of preference rows read (see `data.rows`)? Those of the target side, or those of the source side."""

from mpo_jax.data.json_objects import Place
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.data.prompts.content import Content, Found, PromptSet
from mpo_jax.data.rows import PairText, read_rows
from mpo_jax.errors import InputError


def read_target(content: Content) -> Found:
    """The prompt of every row, named like the row."""
    for row in read_rows(content.path, allow_empty_prompt=True):  # the registry refuses those that are asked for
        yield _found(content, row.id, row.target)


def read_source(content: Content) -> Found:
    """A prompt that several rows share comes once, named like the first of them. Errors: rows without a source side."""
    seen = set()
    for row in read_rows(content.path, allow_empty_prompt=True):
        if row.source is None:
            raise InputError(f"{content.path} has no source side: leave 'side' out, or write side=target.")
        if (text := (row.source.language, row.source.prompt)) not in seen:
            seen.add(text)
            yield _found(content, row.id, row.source)


def _found(content: Content, identity: str, side: PairText) -> tuple[Place, Prompt]:
    return Place(f"{content.path}, row '{identity}'"), Prompt(identity, side.language, (Message("user", side.prompt),))


SET = PromptSet(
    name="preference rows",
    looks="JSON objects with target and perhaps source, or with target_conversations",
    fits=lambda content: bool({"target", "target_conversations"} & content.keys),
    read=read_target,
    read_source=read_source,
)
