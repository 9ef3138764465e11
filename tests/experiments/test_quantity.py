"""The study of how much data is needed: tables of known runs, and the command from end to end."""

import dataclasses
import json

import pytest

from mpo_jax.experiments import quantity
from mpo_jax.experiments.quantity import Sized
from mpo_jax.experiments.results import BASE, Run
from mpo_jax.experiments.world import LANGUAGES, Noise, World, preference_rows


def values(share: float) -> dict[str, float]:
    names = ("refuses", "answers", "perplexity", "writes_refusal")
    return {f"{name}/{language}": share for name in names for language in LANGUAGES}


def test_the_table_has_a_line_for_each_number_of_requests():
    runs = [Sized(0, Run(BASE, seed, Noise(), 0.0, values(0.1))) for seed in (0, 1)]
    runs += [Sized(n, Run("mpo", seed, Noise(), 1e-4, values(n / 100))) for n in (10, 50) for seed in (0, 1)]
    lines = quantity.tabulate(runs).splitlines()
    assert [line.split(" | ")[:3] for line in lines[4:]] == [
        ["| `base`", "0", "0.100 ± 0.000"],
        ["| `mpo`", "10", "0.100 ± 0.000"],
        ["| `mpo`", "50", "0.500 ± 0.000"],
    ]


def test_fewer_requests_are_among_more():
    few, more = ({row.id for row in preference_rows(World(0), 0, n, Noise())} for n in (3, 8))
    rows = {n: preference_rows(World(0), 0, n, Noise()) for n in (3, 8)}
    assert few < more and [r.target.prompt.tolist() for r in rows[3]] == [r.target.prompt.tolist() for r in rows[8][: len(few)]]


@pytest.mark.slow
def test_the_command_writes_its_results(tmp_path, monkeypatch):
    parse = quantity.parse

    def tiny(argv):
        study, counts, folder = parse(argv)
        return dataclasses.replace(study, requests=2, base_updates=2), counts, folder

    monkeypatch.setattr(quantity, "parse", tiny)
    quantity.main(["--seeds=1", "--methods=mpo", "--prompts=8,4", f"--out={tmp_path}"])
    kept = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert [(one["prompts"], one["run"]["method"]) for one in kept] == [(0, "base"), (4, "mpo"), (8, "mpo")]
    assert len({json.dumps(one["run"]["values"]) for one in kept}) == 3
    assert (tmp_path / "quantity.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--prompts=10,10", "distinct numbers from 2 to 320"),
        ("--prompts=1", "distinct numbers from 2 to 320"),
        ("--methods=mop", "methods='mop' is not known"),
        ("--seeds=0", "at least 1"),
    ],
)
def test_bad_arguments_are_a_sentence(argument, sentence, capsys):
    with pytest.raises(SystemExit):
        quantity.main([argument])
    assert sentence in capsys.readouterr().err
