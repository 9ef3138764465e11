"""What does a person see who gave bad input? One sentence, and no traceback."""

import contextlib
import errno
import sys
from collections.abc import Collection, Iterator

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # nobody's bug, wherever it happens


class InputError(ValueError):
    """Bad input from a person: the message says what was given, where, and what to write instead. It is one line, also where it
    quotes more."""

    def __init__(self, sentence: str):
        super().__init__(" ".join(sentence.split()))


class Diverged(InputError):
    """A loss or gradient that is not finite: these settings do not train."""


def check_choice(setting: str, value: str, choices: Collection[str]) -> None:
    """Refuses a value that is none of the choices of a setting."""
    if value not in choices:
        raise InputError(f"{setting}='{value}' is not known: write one of {', '.join(map(repr, choices))}.")


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Ends the program with exit code 2 and the sentence of an `InputError`, or of a disk that takes no more; anything else is a
    bug and keeps its traceback."""
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
