"""A run's price is that of its parts."""

import dataclasses

from slices import FITS, MESH, config

from mpo_jax.planning.advice import Asked, describe, describe_generation
from mpo_jax.planning.bound import Bound
from mpo_jax.planning.generation import GenerationReport
from mpo_jax.planning.price import PUBLISHED, price
from mpo_jax.planning.slice_fit import SliceReport
from mpo_jax.training.samples import SamplesConfig

ENTRY = SliceReport(
    "v5e:2x2", 1, MESH, 32, 2048, 1, 1, 0, 0, False, 1, 65536, 900.0, 100.0, True, {"step": FITS},
    bound=Bound(products=12.0, memory=3.0, network=1.0, between_slices=0.0), chips=4, reading_seconds=0.5,
    forward_flops={"held out": 300.0, "gaps": 200.0, "scoring": 100.0}, compile_seconds=60.0,
)  # fmt: skip


def test_all_parts_of_a_run_count():
    run = config("model_dir", epochs=2, eval_every=10, samples=SamplesConfig(every=20, max_new_tokens=8))
    run.data = dataclasses.replace(run.data, eval_fraction=0.2)
    found = price(ENTRY, run, 100)
    assert found.updates == 2 * 10, "of 80 rows, eight at a time"
    evaluations, batches = 3, 3  # before, in the middle and after; of 20 rows
    assert found.best == {
        "training": 20 * 12.0,
        "scoring": 13 * 1.0,
        "evaluation": evaluations * batches * 3.0,
        "compilation": 60.0,
        "samples": 2 * 8 * 0.5,
    }
    for share, parts in zip(PUBLISHED, found.published, strict=True):
        assert parts["training"] == 20 * 900 / 100 / share and parts["scoring"] == 13 / share
        assert (parts["compilation"], parts["samples"]) == (60, 8), "these take no longer"
    assert found.hours(found.best) == sum(found.best.values()) * 4 / 3600


def test_without_held_out_rows_a_few_of_the_others_are_measured():
    assert price(ENTRY, config("model_dir"), 1000).best["evaluation"] == 2 * 8 * 2.0, "64 rows, before and after"


def test_what_does_not_fit_has_no_price():
    assert price(dataclasses.replace(ENTRY, bound=None), config("model_dir"), 100) is None
    assert "bound" not in describe(dataclasses.replace(ENTRY, bound=None), config("model_dir"), Asked(rows=100, money=2.0))


def test_the_lines_promise_nothing():
    lines = describe(ENTRY, config("model_dir"), Asked(rows=80, money=2.0)).splitlines()
    bound, published, run, money = lines[-4:]
    assert bound == "  bound      an update takes 12 s at best, for its products (products 12 s, memory 3 s, network 1 s)"
    assert published.startswith("  range      18 to 45 s at 50% to 20% of the peak")
    assert run.startswith("  run        20 updates: 0.38 chip-hours at best, 0.56 to 1.3 in that range (training 71.4%")
    assert money.startswith("  price      0.76 at best, 1.12 to ") and money.endswith(" in that range, at 2 a chip-hour")
    assert len(describe(ENTRY, config("model_dir")).splitlines()) == len(lines) - 2


def test_a_token_has_a_bound_too():
    written = GenerationReport("v5e:1x1", {"data": 1}, 8, 64, 64, 1, 1, True, {"loading": FITS, "decode": FITS})
    assert "bound" not in describe_generation(written)
    said = describe_generation(dataclasses.replace(written, token=Bound(0.001, 0.002, 0.0, 0.0)))
    assert "  bound      one token of every answer takes 2 ms at best, for its memory" in said.splitlines()
