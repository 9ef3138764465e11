"""Does the package work where it is installed, beside other packages and in any folder?"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import xla_flags
from packaging.requirements import Requirement

import mpo_jax

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins(file: str) -> dict[str, str]:
    """Package -> version of a requirement file, without those of the file that it includes."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return dict(re.fullmatch(r"([\w.-]+)==([\w.]+)(?:\s+#.*)?", line).groups() for line in lines if re.match(r"\w", line))


@pytest.mark.parametrize(
    ("file", "ranges"),
    [
        ("requirements.txt", PROJECT["dependencies"]),
        ("requirements-gcs.txt", EXTRAS["gcs"]),
        ("requirements-server.txt", EXTRAS["server"]),
        ("requirements-tpu-plan.txt", EXTRAS["tpu-plan"]),
        ("requirements-utility.txt", EXTRAS["utility"]),
    ],
)
def test_what_make_installs_lies_in_the_ranges_of_the_package(file, ranges):
    required = {req.name: req.specifier for req in map(Requirement, ranges)}
    pinned = pins(file)
    assert pinned.keys() == required.keys()
    for name, version in pinned.items():
        assert version in required[name], f"{name} {version}"


def test_version_is_said_once_more_and_the_same():
    assert PROJECT["version"] == mpo_jax.__version__


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder of an installed wheel, built from the checkout without the network."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("a wheel is built by hatchling: pip install -r requirements-dev.txt")
    folder = tmp_path_factory.mktemp("wheel")
    alone = ["--no-deps", "--no-build-isolation", "--no-index"]
    build = [sys.executable, "-m", "pip", "wheel", str(ROOT), *alone, "--wheel-dir", str(folder)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("mpo_jax-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_holds_the_package_the_configs_and_the_quickstart(installed):
    def files(folder: Path, under: str) -> set[str]:
        found = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        return {f"{under}/{path.relative_to(folder).as_posix()}" for path in found}

    expected = files(ROOT / "mpo_jax", "mpo_jax")
    for part in ("configs", "quickstart/model", "quickstart/data"):
        expected |= files(ROOT / part, f"mpo_jax/{part}")
    assert files(installed / "mpo_jax", "mpo_jax") == expected


@pytest.mark.slow
def test_quickstart_runs_where_the_wheel_is_installed(installed, tmp_path):
    """Cut to two updates on ten rows."""
    for file in (installed / "mpo_jax" / "quickstart" / "data").glob("*.jsonl"):
        file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:10]), encoding="utf-8")
    command = [sys.executable, "-m", "mpo_jax.train", "--config=quickstart", "--config.epochs=1", "--config.batch_size=5"]
    command += ["--config.compilation_cache=", "--config.data.cache=", "--config.metrics.tensorboard=False"]
    env = {**os.environ, "PYTHONPATH": str(installed), "XLA_FLAGS": xla_flags.FAST}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "quickstart"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert max(line["step"] for line in lines) == 2
    assert str(installed) in json.loads((run / "config.json").read_text(encoding="utf-8"))["model"]
    assert (run / "export" / "model.safetensors").is_file()
