"""The house keeps its shape: imports go down only, and no file or function grows past one question."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "mpo_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

METHODS = {f"losses.{name}" for name in ("sft", "dpo", "ipo", "rdpo", "cpo", "kto", "orpo", "r_dpo", "simpo", "mpo", "sum")}

# A module imports from lower layers only. docs/architecture.md shows the same table.
LAYERS = [
    {"errors", "types", "gaps", "data.language", "interruption", "standstill"},
    {"storage"},
    {
        *("hosts", "sharding", "optim", "metrics", "losses.base", "data.rows", "plots", "card", "hub", "tpu_compiler"),
        *("models.attention_blocks", "models.attention_splash"),
    },
    {*METHODS, "models.attention", "models.layers", "step", "data.chat", "logprob", "digests", "stored"},
    {"losses", "checkpoint", "divergence", "data.audit", "data.layout", "data.views", "models.decoder", "experiments.world"},
    {
        "models.weights",
        "data.shapes",
        "data.packing",
        "scoring",
        "reference_store",
        "flops",
        "memory",
        *("experiments.methods", "experiments.results"),
    },
    {"data.pipeline", "objective", "models.family", "metering"},
    {"models.llama", "models.gemma2", "models.qwen2", "prepare", "evaluate", "experiments.learning"},
    {"models.families", "reference", "config", "experiments.base", "experiments.measuring"},
    {"convert", "identity", "preview", "variants", "budget", "mesh_rule", "numbers", "experiments.transfer"},
    {"reward_gap", "report", "programs"},
    {"setup", "fit"},
    {"train", "search"},
    {"sweep", "plan"},
]
LAYER = {name: depth for depth, names in enumerate(LAYERS) for name in names}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__").removesuffix("__init__")


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports at run time, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mpo_jax":
            base = node.module.removeprefix("mpo_jax").removeprefix(".")
            for alias in node.names:
                deeper = f"{base}.{alias.name}".removeprefix(".")
                found.add(deeper if deeper in LAYER else base)
        assert not (isinstance(node, ast.Import) and any(a.name.startswith("mpo_jax.") for a in node.names)), path
    return found - {""}


def test_every_module_has_a_layer():
    empty = {"", "data", "models", "experiments"}
    assert {module_name(f) for f in FILES} - empty == set(LAYER)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down_only(path: Path):
    here = module_name(path)
    if here in LAYER:
        upward = {name for name in imports(path) if LAYER[name] >= LAYER[here]}
        assert not upward, f"{here} (layer {LAYER[here]}) imports {upward}"


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
    assert not roots(tree.body) & {"transformers", "datasets", "matplotlib", "wandb", "tensorboardX"}


def test_methods_see_scores_and_data_sees_no_model():
    for path in FILES:
        if module_name(path).startswith("losses"):
            assert imports(path) <= {"types", "errors", "losses.base", *METHODS}, path
        if module_name(path).startswith("data"):
            assert not any(name.startswith(("models", "losses")) for name in imports(path)), path
        if module_name(path).startswith("models"):
            assert not any(name.startswith("losses") for name in imports(path)), path
