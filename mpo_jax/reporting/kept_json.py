"""How is a file of a run read that may be missing or changed? A missing one is None, a broken one a sentence."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpo_jax.errors import InputError


def read_json(path: Path) -> Any:
    """None where there is no such file. Errors: `InputError` where it is no JSON."""
    if not path.is_file():
        return None
    with understood(path):
        return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[Any]:
    """The objects of a JSONL file; none where there is no such file, and without a last line that was cut short. Errors:
    `InputError` where another line is no JSON."""
    if not path.is_file():
        return []
    with understood(path):
        text = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].split("\n") if line]


@contextlib.contextmanager
def understood(path: Path) -> Iterator[None]:
    """Errors: `InputError` in place of what is raised where the content of `path` is not of its shape."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): make it readable, or move it away.") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise InputError(
            f"{path} has another shape than the command that writes it gives it ({reason}): write it again, or move it away."
        ) from None
