"""What does a person see who gave bad input? One sentence, and no traceback."""

import contextlib
import sys
from collections.abc import Iterator


class InputError(ValueError):
    """Bad input from a person: the message says what was given, where, and what to write instead."""


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Ends the program with the sentence of an `InputError` and exit code 2; anything else is a bug and keeps its traceback."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
