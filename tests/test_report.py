"""The command finds runs and studies, names what it writes, and turns mistakes into sentences."""

import dataclasses
import json

import pytest
import small_run

from mpo_jax import report
from mpo_jax.experiments.results import BASE, Run
from mpo_jax.experiments.world import LANGUAGES, Noise


def write_study(folder):
    names = ("refuses", "complies", "answers", "gap", "accuracy", "perplexity", "writes_refusal", "writes_compliance")

    def values(level: float) -> dict[str, float]:
        return {f"{name}/{language}": level + i / 100 for name in names for i, language in enumerate(LANGUAGES)}

    runs = [Run(m, seed, Noise(), 1e-4, values(level + seed / 50)) for m, level in ((BASE, 0.1), ("mpo", 0.6)) for seed in (0, 1)]
    folder.mkdir()
    (folder / "results.json").write_text(
        json.dumps({"study": {}, "grids": {}, "runs": [dataclasses.asdict(run) for run in runs]})
    )
    return folder


def test_one_run_gets_its_page_in_its_folder(tmp_path, capsys):
    folder = small_run.write_run(tmp_path / "run")
    report.main([str(folder)])
    assert capsys.readouterr().out == f"{folder / 'report.html'}: 1 run\n"
    assert "a mild answer</dd>" not in (folder / "report.html").read_text(encoding="utf-8")
    report.main([str(folder), "--texts"])
    assert "a mild answer</dd>" in (folder / "report.html").read_text(encoding="utf-8")


def test_runs_and_a_studys_methods_stand_side_by_side(tmp_path):
    folder, study = small_run.write_run(tmp_path / "mine"), write_study(tmp_path / "study")
    report.main([str(folder), str(study), f"--output={tmp_path / 'both.html'}"])
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert '<th scope="col" class="number">mine</th>' in page
    assert '<th scope="col" class="number">mpo</th>' in page


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    folders = [small_run.write_run(tmp_path / name / "run") for name in ("first", "second")]
    assert report.names_of(folders) == ["first/run", "second/run"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none"], "is no folder"),
        (["run", "run"], "given twice"),
        (["."], "holds nothing of a run"),
        (["run", "--output=run"], "is a folder: give the name of a file"),
        (["run", "--output=none/page.html"], "cannot be written"),
    ],
)
def test_a_mistake_is_a_sentence(tmp_path, monkeypatch, capsys, arguments, sentence):
    small_run.write_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        report.main(arguments)
    assert sentence in capsys.readouterr().err


def test_a_run_in_a_bucket_has_its_page_there(folder, tmp_path):
    for path in small_run.write_run(tmp_path / "run").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    report.main([str(folder)])
    assert '<section id="gaps">' in (folder / "report.html").read_text(encoding="utf-8")
