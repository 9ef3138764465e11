"""What docs/objectives.md says of the methods is what the code does."""

import contextlib
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from answers import POLICY, REFERENCE, rows_of, scores
from states import prompts

from mpo_jax import losses
from mpo_jax.losses.language_subspaces import Subspaces
from mpo_jax.types import Reads, Want

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")
METHODS = [method for name, method in vars(losses).items() if isinstance(method, type) and name != "Sum"]
STATES = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)


@pytest.fixture(autouse=True, scope="module")
def probe(tmp_path_factory):
    """LENS reads its probe from the working folder."""
    with contextlib.chdir(tmp_path_factory.mktemp("probe")):
        means = {language: np.random.default_rng(i).normal(size=8) for i, language in enumerate(("en", "sw", "zh"))}
        Path("probe.safetensors").write_bytes(Subspaces.of(means).encoded())
        yield


def said(reads: Reads) -> str:
    sides = [(side, getattr(reads, side)) for side in ("source", "target")]
    parts = [f"{side}: {', '.join(str(part.name) for part in want)}" for side, want in sides if want is not Want.NOTHING]
    parts += ["mismatched pairs"] if reads.mismatch else []
    return "; ".join(parts) or "nothing"


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_reads_and_defaults_are_the_codes(method):
    loss = method()
    fields = [f"{f.name} {f.default}" for f in dataclasses.fields(method) if f.name != "side"]
    row = f"| `{method.__name__}` | {said(loss.policy_reads)} | {said(loss.reference_reads)} | {', '.join(fields)} |"
    assert row in PAGE


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_the_source_is_the_docstrings(method):
    (paper,) = re.findall(rf"^\| `{method.__name__}` \|.*\| (arXiv:[\d.]+) \|$", PAGE, re.MULTILINE)
    assert paper in method.__doc__


@pytest.mark.parametrize("method", [m for m in METHODS if m is not losses.Mpo], ids=lambda method: method.__name__)
def test_every_metric_of_a_baseline_is_explained(method):
    policy, reference = scores(POLICY), scores(REFERENCE, mismatch=REFERENCE)
    of_prompts = prompts(STATES, STATES[::-1])
    policy = dataclasses.replace(policy, prompts=of_prompts.prompts, rows=of_prompts.rows)
    for name in rows_of(method(), policy, dataclasses.replace(reference, prompts=of_prompts.prompts)).metrics_B:
        assert f"`{name}`" in PAGE, name
