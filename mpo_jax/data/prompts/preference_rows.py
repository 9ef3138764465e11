"""How are the prompts of preference rows read (see `data.rows`)? Those of the target side, or those of the source side."""

from collections.abc import Iterator, Sequence

from mpo_jax.data.json_objects import Place
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.data.prompts.content import Content, Found, PromptSet
from mpo_jax.data.rows import Row, read_rows
from mpo_jax.errors import InputError


def prompts_of_rows(rows: Sequence[Row], side: str) -> Iterator[Prompt]:
    """On the target side the prompt of every row, named like the row. On the source side, where there is one, a prompt that
    several rows share comes once, named like the first of them."""
    seen = set()
    for row in rows:
        pair = row.target if side == "target" else row.source
        if pair is None:
            continue
        if side == "target" or (pair.language, pair.prompt) not in seen:
            seen.add((pair.language, pair.prompt))
            yield Prompt(row.id, pair.language, (Message("user", pair.prompt),))


def read_target(content: Content) -> Found:
    return _placed(content, read_rows(content.path, allow_empty_prompt=True), "target")  # the registry refuses those asked for


def read_source(content: Content) -> Found:
    """Errors: rows without a source side."""
    rows = read_rows(content.path, allow_empty_prompt=True)
    if rows[0].source is None:
        raise InputError(f"{content.path} has no source side: leave 'side' out, or write side=target.")
    return _placed(content, rows, "source")


def _placed(content: Content, rows: Sequence[Row], side: str) -> Found:
    for prompt in prompts_of_rows(rows, side):
        yield Place(f"{content.path}, row '{prompt.id}'"), prompt


SET = PromptSet(
    name="preference rows",
    looks="JSON objects with target and perhaps source, or with target_conversations",
    fits=lambda content: bool({"target", "target_conversations"} & content.keys),
    read=read_target,
    read_source=read_source,
)
