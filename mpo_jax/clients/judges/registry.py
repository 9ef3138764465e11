"""Which judges are there? One line adds one; a guard is a line of `GUARDS`."""

import dataclasses
from collections.abc import Callable

from mpo_jax.clients.asked import REPLAYED, AskedModel
from mpo_jax.clients.judges import (
    deng,
    guards,
    llama_guard,
    people,
    phrases,
    poly_guard,
    qwen3_guard,
    shield_gemma,
    wild_guard,
)
from mpo_jax.clients.judges.base import Judge
from mpo_jax.errors import InputError, check_choice
from mpo_jax.files.paths import path_of
from mpo_jax.generation.base import Decoding

MOST = 16  # tokens of a reply that is one word


@dataclasses.dataclass(frozen=True)
class Given:
    """What a command knows of the judge: the model to ask, another wording (a file), what follows the judge's name and a colon,
    and the most tokens of a reply (None: as many as the judge needs)."""

    model: AskedModel
    wording: str | None = None
    file: str | None = None
    most: int | None = None


def _deng(given: Given) -> Judge:
    wording = deng.Wording() if given.wording is None else deng.read_wording(path_of(given.wording))
    decoding = Decoding(max_new_tokens=given.most or MOST)
    return deng.judge(lambda: given.model.responder(decoding), wording, given.model.called)


def _people(given: Given) -> Judge:
    if given.file is None:
        raise InputError("The judge 'people' is a sheet: write people:FILE, with the CSV that --sample-for-people wrote.")
    return people.judge(path_of(given.file))


GUARDS = (
    llama_guard.GUARD,
    qwen3_guard.STRICT,
    qwen3_guard.LOOSE,
    shield_gemma.GUARD,
    wild_guard.GUARD,
    poly_guard.GUARD,
)
JUDGES: dict[str, Callable[[Given], Judge]] = {
    "deng": _deng,
    "phrases": lambda given: phrases.judge(),
    "people": _people,
    **{guard.name: lambda given, guard=guard: guards.judge(guard, given.model) for guard in GUARDS},
}


def judge(name: str, given: Given) -> Judge:
    """`name` is that of the registry, for `people` followed by a colon and the sheet. Errors: an unknown name; those of the
    judge."""
    kind, _, file = name.partition(":")
    check_choice("judge", kind, JUDGES)
    for option, value in {"--judge-prompt": given.wording, "--judge-tokens": given.most}.items():
        if value is not None and kind != "deng":
            raise InputError(f"{option} is for the judge 'deng': the judge '{kind}' has a form of its own, so leave it out.")
    return JUDGES[kind](dataclasses.replace(given, file=file or None))


def judge_of_folder(name: str, given: Given) -> Judge:
    """The judge whose verdicts lie in a folder of this name, or people:FILE, to read what it said. Errors: those of `judge`."""
    if name.startswith("people:"):
        return judge(name, given)
    kind, _, called = name.partition("-")
    kept = AskedModel("judge", server=REPLAYED, model=called or None)
    return judge(kind, Given(kept, given.wording if kind == "deng" else None))
