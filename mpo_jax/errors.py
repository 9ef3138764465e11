"""What does a person see who gave bad input? One sentence, and no traceback."""

import contextlib
import sys
from collections.abc import Collection, Iterator


class InputError(ValueError):
    """Bad input from a person: the message says what was given, where, and what to write instead."""


def check_choice(setting: str, value: str, choices: Collection[str]) -> None:
    """Refuses a value that is none of the choices of a setting."""
    if value not in choices:
        raise InputError(f"{setting}='{value}' is not known: write one of {', '.join(map(repr, choices))}.")


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Ends the program with the sentence of an `InputError` and exit code 2; anything else is a bug and keeps its traceback."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
