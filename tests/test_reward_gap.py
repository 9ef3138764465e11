import json
import re

import make_small
import numpy as np
import pytest
import tiny
from processes import finish, start_command
from world import make_adapter

from mpo_jax import reward_gap
from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.data.dataset import Batching, Tokens
from mpo_jax.data.rows import read_rows
from mpo_jax.evaluation.held_out import measure_gaps, measure_perplexity
from mpo_jax.models.families.registry import build
from mpo_jax.scoring.sequences import make_score_step
from mpo_jax.types import Reads, Want

COMMON = ["--template", "hf", "--dtype", "float32", "--batch-size", "4"]


def test_the_command_writes_rows_table_and_picture(world, tmp_path, capsys):
    model = str(world / "model")
    reward_gap.main(
        ["--model", model, "--compare", model, "--data", str(world / "rows.jsonl"), "--output", str(tmp_path / "out"), *COMMON]
    )
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [row["model"] for row in rows] == ["before"] * 10 + ["after"] * 10
    assert [row["id"] for row in rows[:10]] == [f"r{i}" for i in range(10)]
    table = json.loads((tmp_path / "out" / "reward_gap.json").read_text())
    by_name = {line["name"]: line for line in table["before"]}
    pairs = {row.source for row in read_rows(world / "rows.jsonl")}
    assert by_name["en (dominant)"]["count"] == len(pairs), "a dominant pair that rows share counts once"
    assert by_name["sw"]["count"] == by_name["ko"]["count"] == 5
    mean = np.mean([row["target_gap"] for row in rows[:10] if row["language"] == "sw"])
    np.testing.assert_allclose(by_name["sw"]["mean"], mean, rtol=1e-6)
    assert by_name["sw"]["low"] <= by_name["sw"]["mean"] <= by_name["sw"]["high"]
    assert table["before"] == table["after"]
    assert (tmp_path / "out" / "reward_gap.png").read_bytes().startswith(b"\x89PNG")
    assert "en (dominant)" in capsys.readouterr().out


def test_a_model_is_compared_with_itself_and_an_adapter(world, tmp_path):
    adapter = make_adapter(world, tmp_path / "adapter")
    given = ["--model", str(world / "model"), "--data", str(world / "rows.jsonl"), "--adapter", str(adapter), *COMMON]
    reward_gap.main([*given, "--compare", str(world / "model"), "--output", str(tmp_path / "both")])
    reward_gap.main([*given, "--output", str(tmp_path / "one")])
    both, one = (json.loads((tmp_path / name / "reward_gap.json").read_text()) for name in ("both", "one"))
    assert both["after"] == one["model"] != both["before"]


@pytest.mark.slow
def test_several_processes_measure_what_one_does_and_the_first_one_talks(world, tmp_path, capsys):
    given = ["--model", str(world / "model"), "--data", str(world / "rows.jsonl"), *COMMON]
    reward_gap.main([*given, "--output", str(tmp_path / "one")])
    alone = capsys.readouterr().out
    together = finish(start_command("mpo_jax.reward_gap", [*given, "--output", str(tmp_path / "two")], 2, "--hosts"))
    assert [code for code, _, _ in together] == [0, 0], together
    # Gloo's threads talk at once, into each other's lines: what is left of one may be a rank alone.
    gloo = re.compile(r".*(\[Gloo\]|peer ranks).*|[\d ]*")
    first, second = ([line for line in out.splitlines() if not gloo.fullmatch(line)] for _, out, _ in together)
    assert (first, second) == (alone.splitlines(), [])
    ours, theirs = (
        [json.loads(line) for line in (tmp_path / folder / "rows.jsonl").read_text().splitlines()] for folder in ("two", "one")
    )
    assert len(ours) == len(theirs) == 10
    for a, b in zip(ours, theirs, strict=True):
        for name in ("target_gap", "source_gap"):
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-5)
        assert (a["id"], a["language"]) == (b["id"], b["language"])
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"rows.jsonl", "reward_gap.json", "reward_gap.png"}


def test_an_implicit_reward_gap_is_relative_to_the_base(world, tmp_path):
    """A model relative to itself has none; relative to another one, beta times the difference of the two gaps of sums."""
    rows, other = read_rows(world / "rows.jsonl"), tmp_path / "other"
    make_small.make("llama", world / "tokenizer", other, vocab=264, layers=1)
    run = ["--data", str(world / "rows.jsonl"), "--output", str(tmp_path / "out"), "--base", str(world / "model"), *COMMON]
    reward_gap.main(["--model", str(other), "--compare", str(world / "model"), "--beta", "0.5", *run])
    lines = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert all(line["target_gap"] == line["source_gap"] == 0 for line in lines[10:])
    sums = {}
    for name in (other, world / "model"):
        family, model, _ = build(name)
        pipeline = Tokens.of(name, family.authors_chat, "hf", 1024).pipeline(rows, Batching(10, Reads(Want.LOGP, Want.LOGP)))
        params = load_params(name, model, family, tiny.mesh())
        sums[name] = make_score_step(model, "float32", pipeline.policy)(params, next(iter(pipeline.eval_batches())))
    for side in ("source", "target"):
        ours, base = (getattr(sums[name], side).gap_B for name in (other, world / "model"))
        got = [line[f"{side}_gap"] for line in lines[:10]]
        np.testing.assert_allclose(got, 0.5 * (ours - base), rtol=1e-4, atol=1e-4)


def test_gaps_do_not_depend_on_the_batch_they_are_measured_in(world):
    """10 rows by 4 end with two of filling; by 3 with two others; 4 may be two microbatches of 2."""
    rows = read_rows(world / "rows.jsonl")
    family, model, _ = build(world / "model")
    tokens = Tokens.of(world / "model", family.authors_chat, "hf", 1024)
    params = load_params(world / "model", model, family, tiny.mesh())
    reads = Reads(Want.LOGP, Want.LOGP)
    pipelines = [tokens.pipeline(rows, Batching(n, reads, microbatches=parts)) for n, parts in ((4, 1), (3, 1), (4, 2))]
    step = make_score_step(model, "float32", reads)
    by_four, *others = (measure_gaps(step, params, pipeline, rows, tiny.mesh()) for pipeline in pipelines)
    assert [gap.id for gap in by_four] == [row.id for row in rows]
    for name in ("target_gap", "source_gap"):
        for other in others:
            first, second = ([getattr(gap, name) for gap in gaps] for gaps in (by_four, other))
            np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)
    text_step = make_score_step(model, "float32", Reads(target=Want.LOGP))
    perplexity, halves = (
        measure_perplexity(text_step, params, tokens.pipeline(rows, batching), tiny.mesh())
        for batching in (Batching(4, Reads(target=Want.LOGP), microbatches=n) for n in (1, 2))
    )
    assert set(perplexity) == {"ko", "sw"}
    assert all(1 < value < 1000 for value in perplexity.values())
    assert halves == pytest.approx(perplexity, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"--data": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"--model": "./nowhere"}, "nowhere"),
        ({"--tensor": "3"}, "tensor=3"),
        ({"--beta": "0.2"}, "--base"),
        ({"--hosts.count": "2"}, "give hosts.coordinator and hosts.index too"),
    ],
)
def test_bad_input_is_one_sentence(world, tmp_path, capsys, change, word):
    given = {"--model": str(world / "model"), "--data": str(world / "rows.jsonl"), "--output": str(tmp_path / "out")} | change
    with pytest.raises(SystemExit) as end:
        reward_gap.main([part for pair in given.items() for part in pair] + COMMON)
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert word in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
