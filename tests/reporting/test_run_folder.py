"""What a run's folder holds is read in its shapes; what is missing is not there; what is broken is a sentence."""

import json

import pytest
import small_run

from mpo_jax.errors import InputError
from mpo_jax.reporting.run_folder import read_run


@pytest.fixture
def folder(tmp_path):
    return small_run.write_run(tmp_path / "run")


def test_everything_is_read(folder):
    run = read_run(folder, "mine", texts=True)
    assert run.name == "mine"
    assert run.settings["method"] == "Mpo"
    assert "1000 updates of 8 rows" in run.lead
    assert run.gap is not None
    assert run.gap.languages == ["en", "ar", "sw"]
    assert run.gap.dominant == ["en"]
    assert run.gap.enough == 1.0
    assert run.gap.of["after"]["sw"].value == pytest.approx(1.0)
    mean = run.gap.mean("after")
    assert mean is not None
    assert mean.value == pytest.approx(0.95)  # of ar and sw
    (asr,) = run.safety
    assert asr.better == "lower"
    assert asr.of["before"]["sw"].value == pytest.approx(0.6)
    assert asr.average["after"].value == pytest.approx(0.2)
    assert asr.change["ar"].value == pytest.approx(-0.3)
    mgsm, perplexity = run.usefulness
    assert mgsm.of["after"]["en"].value == 0.52
    assert mgsm.change["en"].low == -0.2
    assert perplexity.of["after"]["sw"].value == 1.3
    assert set(run.curves) == {"loss", "loss/gap", "loss/retain", "eval_loss", "eval_gap/sw", "eval_gap/goal"}
    assert run.audit["sw"] == {"rows": 90, "duplicates": 1, "html_entities": 0}
    assert [when for when, _ in run.answers[0].given] == ["before training", "after update 1000"]


def test_an_adapter_is_named_with_its_start(folder):
    config = json.loads((folder / "config.json").read_text())
    assert "adapter" not in read_run(folder, "mine", texts=False).settings
    for lora, said in (({"rank": 4}, "LoRA of rank 4"), ({"rank": 4, "start": "a/b"}, "LoRA of rank 4, started from a/b")):
        (folder / "config.json").write_text(json.dumps(config | {"lora": lora}))
        assert read_run(folder, "mine", texts=False).settings["adapter"] == said


def test_what_was_not_read_or_is_missing_is_told_with_the_figures(folder):
    run = read_run(folder, "mine", texts=False)
    (asr,) = run.safety
    assert asr.notes[0] == "attack success rate, judged by made-up judge."
    assert "3 unparsed and 0 missing" in asr.notes[1]
    assert "Spearman −0.50 [−0.90, −0.10]" in asr.notes[-1]
    assert "could not be read or are missing, 4" in run.usefulness[0].notes[0]


def test_without_texts_no_answer_is_read(folder):
    assert read_run(folder, "mine", texts=False).answers == []


def test_a_folder_with_one_file_is_enough(folder):
    for path in folder.iterdir():
        if path.name != "reward_gap.json":
            path.unlink()
    run = read_run(folder, "mine", texts=True)
    assert run.gap is not None
    assert not run.settings
    assert not run.safety
    assert not run.curves


def test_other_commands_may_write_into_folders_of_their_own(folder):
    for name, inside in {"asr.json": "safety", "utility.json": "utility"}.items():
        (folder / inside).mkdir()
        (folder / name).rename(folder / inside / name)
    run = read_run(folder, "mine", texts=False)
    assert len(run.safety) == 1
    assert len(run.usefulness) == 2


def test_a_line_that_was_cut_short_is_left_out(folder):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1001, "lo')
    assert max(step for step, _ in read_run(folder, "mine", texts=False).curves["loss"]) == 1000


def test_a_folder_of_something_else_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="holds nothing of a run"):
        read_run(tmp_path, "mine", texts=False)


@pytest.mark.parametrize("name", ["config.json", "audit.json", "reward_gap.json", "asr.json", "utility.json"])
@pytest.mark.parametrize("content", ['{"half', "[1, 2]", '{"before": 3}', "\udcff", "7"])
def test_a_broken_file_is_a_sentence_that_names_it(folder, name, content):
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=name):
        read_run(folder, "mine", texts=False)


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
@pytest.mark.parametrize("line", ["[1]", "{", '{"loss": "low"}', '{"step": 1, "loss": null}'])
def test_so_is_a_broken_line(folder, name, line):
    with (folder / name).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=name):
        read_run(folder, "mine", texts=True)


def test_a_judge_that_read_nothing_in_a_language_leaves_it_out(folder):
    kept = small_run.asr(0.4, 0.1)
    kept["models"]["after"]["lines"][1]["rates"]["asr"] = None
    kept["models"]["after"]["average"]["asr"] = None
    (folder / "asr.json").write_text(json.dumps(kept))
    (asr,) = read_run(folder, "mine", texts=False).safety
    assert list(asr.of["after"]) == ["en", "sw"]
    assert "after" not in asr.average
