"""Means, intervals and tables of a study, on numbers that are known."""

import math

import pytest

from mpo_jax.experiments.results import BASE, Estimate, Run, balance, markdown, plot, relation
from mpo_jax.experiments.world import LANGUAGES, Noise

LIKELIHOODS = ("refuses", "complies", "answers", "gap", "accuracy", "perplexity")
NAMES = (*LIKELIHOODS, "writes_refusal", "writes_compliance")


def values(level: float) -> dict[str, float]:
    of_language = {f"{name}/{language}": level + i / 100 for name in NAMES for i, language in enumerate(LANGUAGES)}
    return {"drift/kl": level, "drift/hidden": level, **of_language}


RUNS = [Run(method, seed, Noise(), 1e-4, values(0.1 * seed)) for method in (BASE, "mpo") for seed in (1, 2, 3)]
NOISY = [Run("mpo", seed, Noise(flips=0.5), 1e-4, values(0.2 * seed)) for seed in (1, 2, 3)]


def test_the_interval_is_students():
    estimate = Estimate.of([1.0, 2.0, 3.0])
    assert estimate.mean == 2
    assert estimate.half == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)  # t of 2 degrees of freedom, at 0.975
    assert estimate.text(2) == "2.00 ± 2.48"
    assert Estimate.of([1.0]).text(1) == "1.0"


def test_balance_counts_every_language_and_both_kinds_of_request():
    even = values(0.0) | {f"{name}/{language}": 0.0 for name in ("refuses", "answers") for language in LANGUAGES}
    assert balance(even) == 0
    assert balance(even | {"refuses/d": 1.0}) == pytest.approx(1 / 14)
    assert balance(even | {"answers/g": 1.0}) == pytest.approx(1 / 14)
    assert balance(even | {"complies/g": 1.0}) == 0


def test_the_tables_hold_the_means():
    text = markdown([*RUNS, *NOISY])
    assert "means of 3 seeds" in text
    (row, written) = [
        line for line in text.splitlines() if line.startswith("| `mpo` | 0.235 ±")
    ]  # targets: 0.2 + mean of 0.01 to 0.06
    assert row.split(" | ")[2] == "0.210 ± 0.248"  # the worst of them
    assert written.split(" | ")[2] == "0.235 ± 0.248"  # what it writes is as likely here
    assert "| `mpo` | 50% of the labels wrong | 0.435 ± 0.497 |" in text
    assert "Noise" not in markdown(RUNS)


def test_the_rank_correlation_is_over_languages_and_methods_and_seed_by_seed():
    """The base model refuses more where its gap is smaller; the method refuses everything."""
    turned = {
        f"{name}/{language}": 0.9 - i / 100 for name in ("refuses", "writes_refusal") for i, language in enumerate(LANGUAGES)
    }
    flat = {f"writes_refusal/{language}": 1.0 for language in LANGUAGES}
    runs = [Run(BASE, seed, Noise(), 0.0, values(0.1) | turned) for seed in (1, 2)]
    runs += [Run("mpo", seed, Noise(), 1e-4, values(0.5) | flat) for seed in (1, 2)]
    found = relation(runs, Noise(), [BASE], "refuses")
    assert found is not None
    assert (found[0].mean, found[1]) == (pytest.approx(-1), 2)
    found = relation(runs, Noise(), ["mpo"], "refuses")
    assert found is not None
    assert found[0].mean == pytest.approx(1)
    assert relation(runs, Noise(), ["mpo"], "writes_refusal") is None
    text = markdown([*runs[:3], Run("mpo", 2, Noise(), 1e-4, values(0.5))])
    assert "| languages, `base` | -1.00 ± 0.00 | -1.00 ± 0.00 |" in text
    assert "| languages, `mpo` | 1.00 ± 0.00 | 1.00 (of 1) |" in text


def test_plots_are_drawn(tmp_path):
    plot(RUNS, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gaps.png", "safety.png"]
    plot([*RUNS, *NOISY], tmp_path)
    assert (tmp_path / "noise.png").stat().st_size < 100_000
