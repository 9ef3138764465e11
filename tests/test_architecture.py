"""The house keeps its shape: imports go down only, and no file or function grows past one question."""

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "mpo_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

COMMANDS = {"train", "sweep", "plan", "preview", "reward_gap", "generate", "safety", "report", "utility"}
COMMANDS |= {"build", "rounds", "edit", "represent", "probe"}
# From the top to the ground: a package imports itself and what stands below it, and models, data and losses not one another.
PACKAGES = (
    *(
        "experiments",
        "recipes",
        "planning",
        "training",
        "reporting",
        "evaluation",
        "clients",
        "generation",
        "editing",
        "scoring",
        "checkpoints",
        "telemetry",
    ),
    *("models", "data", "losses"),
    *("files", "devices"),
)
APART = {"models", "data", "losses"}
GROUND = {"types", "errors"}  # `types` imports nothing of the package, and neither does `errors`


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__").removesuffix("__init__")


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports at run time, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mpo_jax":
            base = node.module.removeprefix("mpo_jax").removeprefix(".")
            for alias in node.names:
                deeper = f"{base}.{alias.name}".removeprefix(".")
                found.add(deeper if deeper in MODULES else base)
        assert not (isinstance(node, ast.Import) and any(a.name.startswith("mpo_jax.") for a in node.names)), path
    return found - {""}


def package_of(module: str) -> str:
    return module.partition(".")[0]


def below(package: str) -> set[str]:
    """What a package may import beside itself."""
    if package in COMMANDS:
        return {*PACKAGES, *GROUND, *COMMANDS}
    if package in GROUND:
        return set()
    lower = {*PACKAGES[PACKAGES.index(package) + 1 :], *GROUND}
    return lower - APART if package in APART else lower


def test_only_commands_lie_flat():
    flat = {module_name(path) for path in PACKAGE.glob("*.py")} - {""}
    assert flat == COMMANDS | GROUND
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(PACKAGES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str):
    if package := package_of(module):
        upward = {name for name in imports(MODULES[module]) if package_of(name) not in {package, *below(package)}}
        assert not upward, f"{module} imports {upward}"


def circle(graph: dict[str, set[str]]) -> Iterable[str]:
    """The modules that are left when those that import none of the left ones have gone."""
    left = dict(graph)
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    return left


def test_no_modules_import_each_other_in_a_circle():
    assert not circle({module: imports(path) - {module} for module, path in MODULES.items()})
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()})) == {"a", "b", "c"}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_stay_small(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 320
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 75, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_heavy_and_foreign_packages_stay_out(path: Path):
    """torch is never imported; what is slow to import or optional is imported where it is used."""
    tree = ast.parse(path.read_text(encoding="utf-8"))

    def roots(nodes) -> set[str]:
        names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
        names += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
        return {name.split(".")[0] for name in names}

    assert "torch" not in roots(ast.walk(tree))
    assert not roots(tree.body) & {
        "transformers",
        "datasets",
        "matplotlib",
        "wandb",
        "tensorboardX",
        "py3langid",
        "openai",
        "lm_eval",
    }


def test_methods_see_scores_alone():
    for module, path in MODULES.items():
        if package_of(module) == "losses":
            assert {package_of(name) for name in imports(path)} <= {"types", "errors", "losses"}, module
