"""What the documentation says of the code is so."""

import dataclasses
import functools
import re
from pathlib import Path

import jax
import modules_page
import numpy as np
import pytest
import test_architecture
import tiny

from mpo_jax.losses import Mpo
from mpo_jax.losses.base import numbers_of
from mpo_jax.scoring.objective import Task, objective
from mpo_jax.types import Pair, Scores, SequenceScores

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_methods_example_works():
    """Where both answers are equally likely its loss is the margin; it knows no reference and no source side."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope = {}
    exec(compile(code, "README.md", "exec"), scope)
    loss = scope["Slic"]()
    answer = SequenceScores(np.full(3, -5.0, np.float32), np.full(3, 4, np.float32))
    np.testing.assert_allclose(loss(Scores(target=Pair(answer, answer)), Scores(), **numbers_of(loss)).loss_B, loss.margin)
    scored = functools.partial(objective, Task(tiny.model(), loss, tiny.LANGUAGES))
    policy, _ = tiny.two_params(tiny.model())
    value, metrics = jax.eval_shape(scored, policy, {}, dataclasses.replace(tiny.batch(), reference=None))
    assert value.total.shape == ()
    assert "gap/sw" in metrics


def test_the_page_of_modules_is_that_of_the_code():
    assert modules_page.PAGE.read_text(encoding="utf-8") == modules_page.page(), "run python tests/modules_page.py"


def test_the_readme_names_every_package():
    for package in test_architecture.PACKAGES:
        assert f"`{package}/`" in README, package


def test_every_metric_is_explained():
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    scored = functools.partial(objective, Task(tiny.model(), Mpo(), ("<language>",)))
    policy, reference = tiny.two_params(tiny.model())
    for name in jax.eval_shape(scored, policy, reference, tiny.batch())[1]:
        assert f"| `{name}` |" in text, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for name in re.findall(r"`((?:mpo_jax|configs|tests|quickstart)/[\w./]+)`", text):
        assert (ROOT / name).exists() or name in PROPOSED, f"{page.name} names {name}"


# What the worked example would add.
PROPOSED = {"mpo_jax/losses/slic.py"}
