"""Pictures are written, whatever the numbers."""

import math

import pytest

from mpo_jax.evaluation.gap_table import RowGap, bars, gap_table
from mpo_jax.telemetry.plots import plot_gaps, plot_losses

pytestmark = pytest.mark.filterwarnings("error")


def assert_png(path):
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(content) > 5000


def test_losses_with_held_out_points_and_a_retention_of_zero(tmp_path):
    """The first update's retention loss is exactly 0, which a logarithmic axis has no place for."""
    lines = [{"step": 0, "eval_loss": 2.0}]
    lines += [{"step": k, "loss": 1 / k, "loss/gap": 1 / k, "loss/retain": 0.01 * (k - 1)} for k in range(1, 5)]
    plot_losses(lines, tmp_path / "loss.png")
    assert_png(tmp_path / "loss.png")


def test_gaps_before_and_after(tmp_path):
    before = [RowGap(str(i), lang, -math.sin(i), "en", str(i), 2.0) for i in range(6) for lang in ("zh", "ar")]
    after = [RowGap(str(i), lang, 1.0 + math.sin(i), "en", str(i), 2.1) for i in range(6) for lang in ("zh", "ar")]
    plot_gaps(bars({"before": gap_table(before), "after": gap_table(after)}), tmp_path / "gaps.png")
    assert_png(tmp_path / "gaps.png")
