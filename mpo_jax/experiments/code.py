"""Which code decides what a module computes? The module, and every module of its package that it imports, directly or not."""

import ast
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the folder that holds the package


def closure(module: str, root: Path = ROOT) -> dict[str, Path]:
    """Name -> file of the modules below `root` that run when `module` is imported, including itself and the packages around
    each."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name, root)
        if path is not None and name not in found:
            found[name] = path
            waiting += [name.rpartition(".")[0], *_imported(path)]
    return dict(sorted(found.items()))


def digest(files: dict[str, Path]) -> str:
    """A digest of the modules' names and texts."""
    named = hashlib.sha256()
    for name, path in files.items():
        named.update(f"{name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return named.hexdigest()


def _file(name: str, root: Path) -> Path | None:
    place = root.joinpath(*name.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def _imported(path: Path) -> list[str]:
    """The names after `import`, and after `from` and `import` joined, since what is imported from a package may be a module."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path} imports by a relative name"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names
