"""A part of `golden.py` in every test run; the script itself compares all the settings."""

import golden
import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "combos", "methods"), [("llama_untied", range(7, 8), False), ("qwen2_tied", range(10, 11), True)]
)
def test_the_library_computes_the_golden_numbers(shared, model, combos, methods):
    worst = golden.compare(shared / "golden" / model, combos, methods)
    assert {"rg_t", "rg_d", "total", "grad_norm", "param_grad_probe", "adamw total"} <= worst.keys()
    assert {name: (error, tolerance) for name, (error, tolerance) in worst.items() if not error <= tolerance} == {}
