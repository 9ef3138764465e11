"""How is a small text or JSON file written without leaving half of it, and where do two trees of JSON differ?"""

import json
from pathlib import Path
from typing import Any

from mpo_jax.files.paths import write


def write_json(path: Path, value: Any) -> None:
    replace_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def replace_text(path: Path, text: str) -> None:
    write(path, text.encode())


def filled(tree: Any, defaults: Any) -> Any:
    """`tree` with the entries of `defaults` that it does not have, at every depth."""
    if not (isinstance(tree, dict) and isinstance(defaults, dict)):
        return tree
    return {**defaults, **{name: filled(value, defaults.get(name)) for name, value in tree.items()}}


def differences(kept: Any, given: Any, name: str = "") -> list[str]:
    """Where two JSON trees differ, a phrase each."""
    if isinstance(kept, dict) and isinstance(given, dict):
        keys = sorted(kept.keys() | given.keys())
        return [d for key in keys for d in differences(kept.get(key), given.get(key), f"{name}.{key}" if name else key)]
    if isinstance(kept, tuple | list) and isinstance(given, tuple | list):
        kept, given = list(kept), list(given)
    return [] if kept == given else [f"{name} was {kept!r} and is now {given!r}"]
