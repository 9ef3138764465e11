"""What does a user who gave bad input see? One sentence, and no traceback."""

import contextlib
import errno
import sys
from collections.abc import Collection, Iterator

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # not a bug, wherever they occur


class InputError(ValueError):
    """Bad input from a user: the message says what was given, where, and what to write instead. It is always one line, even where
    it quotes several."""

    def __init__(self, sentence: str):
        super().__init__(" ".join(sentence.split()))


class Diverged(InputError):
    """A loss or gradient that is not finite: these settings do not train."""


def check_choice(setting: str, value: str, choices: Collection[str]) -> None:
    """Refuses a value that is not among the choices of a setting."""
    if value not in choices:
        raise InputError(f"{setting}='{value}' is not known: write one of {', '.join(map(repr, choices))}.")


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Ends the program with exit code 2 and the sentence of an `InputError`, or with one about a full or read-only disk; anything
    else is a bug and keeps its traceback."""
    try:
        yield
    except InputError as error:
        sentence = str(error)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        sentence = f"{error.filename or 'A file'} could not be written ({error.strerror}): make room, and run the command again."
    else:
        return
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)
