"""A study's methods are shown as runs that began with the same base model."""

import json

import pytest

from mpo_jax.errors import InputError
from mpo_jax.experiments.results import BASE, Run
from mpo_jax.experiments.side_by_side import read_study, shown
from mpo_jax.experiments.world import DOMINANT, LANGUAGES, Noise

NAMES = ("refuses", "answers", "gap", "writes_refusal")


def values(level: float) -> dict[str, float]:
    return {f"{name}/{language}": level for name in NAMES for language in LANGUAGES}


RUNS = [
    Run(method, seed, noise, 1e-4, values(level + seed / 10))
    for method, level in ((BASE, 0.1), ("mpo", 0.8), ("dpo", 0.7))
    for noise in (Noise(), Noise(words=0.2))
    for seed in (0, 1)
]


def test_every_method_begins_with_the_base_model():
    mpo, dpo = shown(RUNS)
    assert [mpo.name, dpo.name] == ["mpo", "dpo"]
    assert mpo.gap is not None
    assert dpo.gap is not None
    assert mpo.gap.of["before"] == dpo.gap.of["before"]
    assert mpo.gap.of["after"]["g"].value == pytest.approx(0.85)  # of two seeds, without noise
    assert mpo.gap.dominant == (DOMINANT,)
    assert [measure.key for measure in mpo.safety] == ["world writes_refusal", "world refuses"]


def test_the_interval_of_a_share_ends_where_shares_do():
    (mpo, _) = shown(RUNS)
    figure = mpo.safety[0].of["after"]["g"]
    assert (figure.low, figure.high) == (pytest.approx(0.85 - 12.706 * 0.05, rel=1e-3), 1.0)
    assert mpo.gap is not None
    high = mpo.gap.of["after"]["g"].high
    assert high is not None
    assert high > 1


def test_one_seed_has_no_interval():
    (mpo, _) = shown([run for run in RUNS if run.seed == 0])
    assert mpo.safety[0].of["after"]["g"].low is None


def test_a_study_of_before_answers_were_written_is_a_sentence(tmp_path):
    old = {"method": "mpo", "seed": 0, "noise": {"words": 0.0, "flips": 0.0}, "learning_rate": 1e-4, "values": {"gap/d": 1.0}}
    (tmp_path / "results.json").write_text(json.dumps({"runs": [{**old, "method": BASE}, old]}))
    with pytest.raises(InputError, match="another shape"):
        read_study(tmp_path)
    assert read_study(tmp_path / "none") == []
