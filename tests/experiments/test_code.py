"""A digest knows all code that runs for a module, and no other."""

import shutil

from mpo_jax.experiments.code import ROOT, closure, digest

BASE = "mpo_jax.experiments.base"


def test_any_module_that_a_base_model_depends_on_changes_its_digest(tmp_path):
    shutil.copytree(ROOT / "mpo_jax", tmp_path / "mpo_jax", ignore=shutil.ignore_patterns("__pycache__"))
    files = closure(BASE, tmp_path)
    before = digest(files)
    assert before == digest(closure(BASE)), "wherever it lies"
    for name, path in files.items():
        text = path.read_bytes()
        path.write_bytes(text + b"\n# changed\n")
        assert digest(files) != before, name
        path.write_bytes(text)
    assert digest(files) == before


def test_what_a_module_imports_is_followed_to_its_end(tmp_path):
    """A module of a package, a package for a name of its own, an import within a function, a circle; not what nobody imports."""
    files = {
        "a/__init__.py": "",
        "a/top.py": "from a.b import inner\nimport a.c\nimport json",
        "a/b/__init__.py": "from a.b.name import Name",
        "a/b/name.py": "class Name: ...",
        "a/b/inner.py": "def f():\n    from a.late import x",
        "a/late.py": "from a.b import Name",
        "a/c.py": "import a.top",
        "a/other.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(closure("a.top", tmp_path)) == ["a", "a.b", "a.b.inner", "a.b.name", "a.c", "a.late", "a.top"]


def test_a_base_model_depends_on_the_library():
    found = closure(BASE)
    parts = ("experiments.world", "models.layers", "scoring.token_logprob", "training.optim", "data.packing", "types", "losses")
    assert {f"mpo_jax.{part}" for part in parts} <= found.keys()
    assert not {"mpo_jax.train", "mpo_jax.experiments.transfer", "mpo_jax.planning.programs"} & found.keys()
