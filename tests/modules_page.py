"""Where is what? Writes docs/modules.md from the first line of each module's docstring.

python tests/modules_page.py
"""

import ast
import re
from pathlib import Path

from test_architecture import COMMANDS, GROUND, MODULES, PACKAGES, package_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "modules.md"
TOP = """# Where is what?

mpo_jax is multilingual reward-gap MPO in JAX (not TRL's MPO). The commands are on top. A package imports only
itself and the packages below it; models, data and losses do not import one another. `tests/test_architecture.py` checks this, and
`python tests/modules_page.py` writes this page from the first lines of the modules.
"""


def opening(path: Path) -> str:
    """The first line of a module's docstring, or its first sentence where the line ends within another."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{path} has no docstring"
    line = docstring.splitlines()[0]
    return line if line[-1] in ".?" else line[: re.search(r"[.?](?= )", line).end()]


def section(title: str, about: str, names: list[str]) -> str:
    rows = [f"| `{name}` | {opening(MODULES[name])} |" for name in names]
    return "\n".join(
        [f"## {title}\n", *([f"{about}\n"] if about else []), "| module | what it answers |", "|---|---|", *rows, ""]
    )


def page() -> str:
    parts = [TOP, section("Commands", "`python -m mpo_jax.NAME`, from arguments to one call.", sorted(COMMANDS))]
    for package in PACKAGES:
        inside = [name for name, path in MODULES.items() if package_of(name) == package and path.name != "__init__.py"]
        parts.append(section(f"{package}/", opening(MODULES[package]), inside))
    return "\n".join([*parts, section("The ground", "", sorted(GROUND))])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
