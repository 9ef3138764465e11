"""The whole command on a toy model: a run, a run that is interrupted and resumed, and everything that a person gets wrong."""

import contextlib
import errno
import json
import os
import shutil
import signal
import threading

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from world import command, config_file, metrics, write_lines

from mpo_jax import train
from mpo_jax.checkpoints.run_state import Checkpointer, flaw
from mpo_jax.errors import InputError
from mpo_jax.training import assemble, loop
from mpo_jax.training.config import parse

UPDATES = 4  # 8 of the 10 rows, 4 at a time, twice


def test_a_run_leaves_everything_it_promises(whole):
    for name in ("config.json", "audit.json", "metrics.jsonl", "loss.png", "reward_gap.png", "reward_gap.json", "checkpoints"):
        assert (whole / name).exists(), name
    for name in ("model.safetensors", "config.json", "tokenizer.json", "README.md"):
        assert (whole / "export" / name).exists(), name
    assert json.loads((whole / "config.json").read_text())["loss"]["type"] == "Mpo"
    gaps = json.loads((whole / "reward_gap.json").read_text())
    assert {line["name"] for line in gaps["before"]} == {"en (dominant)", "ko", "sw"}
    assert set(gaps["perplexity"]["after"]) == {"en"}
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert '<section id="gaps">' in page
    assert '<section id="answers">' not in page, "nobody asked for texts"
    card = (whole / "export" / "README.md").read_text()
    assert "arXiv:2505.16869" in card
    assert str(whole.parent) not in card, "a machine's paths do not belong in a model card"


def test_metrics_have_trls_names_the_parts_and_the_languages(whole):
    lines = metrics(whole)
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == list(range(1, UPDATES + 1))
    expected = {"loss", "loss/gap", "loss/retain", "grad_norm", "learning_rate", "epoch", "num_tokens"}
    expected |= {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected"}
    assert expected <= trained[-1].keys()
    assert {f"{name}/{lang}" for name in ("gap", "gap_error", "weight", "accuracy") for lang in ("ko", "sw")} <= set().union(
        *trained
    )
    evaluated = [line for line in lines if "eval_loss" in line]
    assert [line["step"] for line in evaluated] == [0, 2, 4]
    assert trained[0]["learning_rate"] == 0


def test_the_exported_model_is_the_trained_one(whole, world):
    before, after = load_file(world / "model" / "model.safetensors"), load_file(whole / "export" / "model.safetensors")
    assert before.keys() == after.keys()
    assert any((before[name] != after[name].astype("float32")).any() for name in before)


def test_transformers_loads_the_export(whole):
    torch = pytest.importorskip("torch", reason="parity with transformers needs torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(whole / "export")
    ids = AutoTokenizer.from_pretrained(whole / "export")("hello", return_tensors="pt").input_ids
    assert torch.isfinite(model(ids).logits).all()


@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_an_interrupted_run_resumes_to_the_same_numbers_bit_for_bit(world, whole, tmp_path, interrupted, capsys, at):
    """In the second update, before any checkpoint, or in the fourth, after that of update 2."""
    with interrupted(at):
        command(world, tmp_path)
    assert not (tmp_path / "run" / "export").exists()
    capsys.readouterr()
    resumed = command(world, tmp_path, "--config.checkpoint.resume=auto")
    assert ("continuing after update 2" in capsys.readouterr().out) == (at > 2)
    assert metrics(resumed) == metrics(whole)
    first, second = (load_file(run / "export" / "model.safetensors") for run in (whole, resumed))
    assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.parametrize("room", [True, False], ids=["room", "no room"])
def test_the_last_state_is_written_while_the_model_is_measured_and_before_the_export(world, whole, tmp_path, monkeypatch, room):
    """The write waits for the measurements, which would wait for ever if they came after it. Without room for it there is no
    export; the run that continues from the state before has the same numbers."""
    measured, sign, measure = threading.Event(), Checkpointer._sign, assemble.Assembly.measured

    def signs(self):
        if self._saving == UPDATES:
            assert measured.wait(60), "nothing was measured meanwhile"
            if not room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sign(self)

    def measures(self, trainable, config):
        found = measure(self, trainable, config)
        if (tmp_path / "run" / "metrics.jsonl").exists():  # after training
            measured.set()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "_sign", signs)
        patch.setattr(assemble.Assembly, "measured", measures)
        patch.setattr(loop, "export", lambda *args: exported.append(flaw(tmp_path / "run" / "checkpoints" / f"step_{UPDATES}")))
        exported = []
        with contextlib.nullcontext() if room else pytest.raises(InputError, match=r"update 4 could not be written .*No space"):
            command(world, tmp_path)
    assert exported == ([None] if room else [])
    assert measured.is_set()
    if not room:
        assert metrics(command(world, tmp_path, "--config.checkpoint.resume=auto")) == metrics(whole)


def test_a_run_that_is_killed_or_stopped_while_its_last_state_is_measured_loses_nothing(
    world, whole, tmp_path, monkeypatch, capsys
):
    run, measure = tmp_path / "run", assemble.Assembly.measured

    def dies(self, trainable, config):
        if (run / "metrics.jsonl").exists():
            raise KeyboardInterrupt
        return measure(self, trainable, config)

    def stops(self, trainable, config):
        found = measure(self, trainable, config)
        os.kill(os.getpid(), signal.SIGTERM)
        return found

    settings = [f"--config={config_file(world, tmp_path)}", "--config.checkpoint.resume=auto"]
    for happens, ends in ((dies, KeyboardInterrupt), (stops, SystemExit)):
        with monkeypatch.context() as patch:
            patch.setattr(assemble.Assembly, "measured", happens)
            with pytest.raises(ends):
                train.main(settings)
        assert not (run / "export").exists()
        assert "eval_loss" not in metrics(run)[-1] or happens is stops
    assert "interrupted after update 4; saved" in capsys.readouterr().out
    train.main(settings)
    assert "continuing after update 4" in capsys.readouterr().out
    assert metrics(run) == metrics(whole)
    first, second = (load_file(of / "export" / "model.safetensors") for of in (whole, run))
    assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("every", [50, 0], ids=["checkpoints", "no checkpoints"])
def test_a_run_that_is_asked_to_stop_finishes_its_update_and_saves(world, whole, tmp_path, monkeypatch, capsys, every):
    """SIGTERM while the second update is under way, where no checkpoint would be due before the end."""
    place, placed = loop.batch_to_mesh, []

    def interrupted(batch, mesh):
        placed.append(batch)
        if len(placed) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return place(batch, mesh)

    settings = [f"--config={config_file(world, tmp_path)}", f"--config.checkpoint.every={every}"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "batch_to_mesh", interrupted)
        with pytest.raises(SystemExit) as end:
            train.main(settings)
    run = tmp_path / "run"
    assert metrics(run) == [line for line in metrics(whole) if line["step"] <= 2], "all there is of the two updates"
    assert not (run / "export").exists()
    printed = capsys.readouterr().out
    if not every:
        assert end.value.code == 43
        assert "interrupted after update 2; nothing was saved" in printed
        return
    assert end.value.code == 42
    assert "interrupted after update 2; saved; continue with --config.checkpoint.resume=auto" in printed
    train.main([*settings, "--config.checkpoint.resume=auto"])
    assert "continuing after update 2" in capsys.readouterr().out
    assert metrics(run) == metrics(whole)


@pytest.mark.slow
def test_a_cached_reference_gives_the_same_run_interrupted_or_not(world, whole, tmp_path, interrupted, monkeypatch, capsys):
    """The scores are kept outside of the run's folder; the resumed run reads them and loads no model at all."""
    cached = ["--config.reference=cached", f"--config.reference_store={tmp_path / 'scores'}"]
    loaded = []
    with interrupted(3):
        command(world, tmp_path, *cached)
    assert "cached, 10 source pairs for 10 rows" in (printed := capsys.readouterr().out)
    assert "(10 to score)" in printed
    monkeypatch.setattr(assemble, "load_params", lambda *args: loaded.append(args))
    resumed = command(world, tmp_path, *cached, "--config.checkpoint.resume=auto")
    assert "(0 to score)" in (printed := capsys.readouterr().out)
    assert "continuing after update 2" in printed
    assert not loaded
    for line, like in zip(metrics(resumed), metrics(whole), strict=True):
        for name in line.keys() - {"packing_efficiency"}:  # which has no reference's positions in it
            assert line[name] == pytest.approx(like[name], rel=1e-4, abs=1e-5), name
        assert line.keys() == like.keys()
    before = [json.loads((run / "reward_gap.json").read_text())["before"] for run in (resumed, whole)]
    assert before[0] == before[1]
    assert str(tmp_path) not in (resumed / "export" / "README.md").read_text()
    with pytest.raises(InputError, match=r"max_length was 1024 and is now 900.*reference_store"):
        command(world, tmp_path / "other", *cached, "--config.data.max_length=900")
    monkeypatch.undo()
    shutil.copytree(world / "model", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file({name: 1.01 * x for name, x in weights.items()}, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"weights was '\w+' and is now '\w+'; give another --config\.reference_store"):
        command(world, tmp_path / "third", *cached, f"--config.model={tmp_path / 'model'}")


@pytest.mark.slow
def test_where_moments_lie_and_what_is_watched_make_no_other_run(world, whole, tmp_path, interrupted, capsys):
    """Interrupted after update 2, then continued with the moments on the host and a profiler on the third update."""
    with interrupted(2):
        command(world, tmp_path)
    watched = ["--config.optim.offload=True", "--config.profile=2:3"]
    resumed = command(world, tmp_path, "--config.checkpoint.resume=auto", *watched)
    for line, like in zip(metrics(resumed), metrics(whole), strict=True):
        for name in line.keys() - {"packing_efficiency"}:  # which has no reference's positions in it
            assert line[name] == pytest.approx(like[name], rel=1e-4, abs=1e-5), name
        assert line.keys() == like.keys()
    assert list((resumed / "profile").rglob("*.xplane.pb"))
    printed = capsys.readouterr()
    assert "continuing after update 2" in printed.out
    assert "first update:" in printed.err + printed.out
    assert "offload=True" in printed.out


def test_programs_are_kept_where_the_config_says(tmp_path, monkeypatch, capsys):
    set_to = {}
    monkeypatch.setattr(loop.jax.config, "update", set_to.__setitem__)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder, enabled in (("~/programs", False), ("", True)):
        monkeypatch.setattr(type(loop.jax.config), "jax_enable_compilation_cache", enabled)
        loop._keep_programs(folder)
        assert not set_to
        assert "not kept" in capsys.readouterr().out
    loop._keep_programs("~/programs")
    assert set_to["jax_compilation_cache_dir"] == str(tmp_path / "programs")
    assert "kept in ~/programs" in capsys.readouterr().out


def test_a_finished_run_resumes_to_nothing_more_to_do(world, whole):
    lines = metrics(whole)
    command(world, whole.parent, "--config.checkpoint.resume=auto")
    assert metrics(whole) == lines


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["--config.data.path=nowhere.json"], ["nowhere.json", "does not exist"]),
        (["--config.model=./nowhere"], ["nowhere", "is not a folder"]),
        (["--config.mesh.data=3"], ["mesh data=3", "devices, 8"]),
        (["--config.mesh.tensor=5"], ["tensor=5", "devices, 8"]),
        (["--config.remat=some"], ["'some'", "full"]),
        (["--config.data.max_length=8"], ["row", "max_length=8"]),
        (["--config.data.max_length=30", "--config.data.truncation=error"], ["row", "max_length=30"]),
        (["--config.batch_size=6", "--config.microbatches=4"], ["batch_size=6", "microbatches=4"]),
        (["--config.metrics.wandb=project"], ["wandb", "pip install"]),
        (["--config.data.eval_fraction=0.99"], ["eval_fraction=0.99"]),
        (["--config.loss.beta=-1.0"], ["loss.beta=-1.0"]),
        (["--config.reference=both"], ["reference='both'", "'cached'"]),
        (["--config.reference_store=somewhere"], ["reference_store='somewhere'", "--config.reference=cached"]),
        (["--config.profile=2:9"], ["profile='2:9'", "4 updates"]),
        (["--config.profile=3"], ["profile='3'", "START:STOP"]),
        (["--config.optim.kind=lion"], ["optim.kind='lion'", "'adafactor'"]),
        (["--config.los.beta=1.0"], ["los", "did you mean 'loss'"]),
    ],
)
def test_bad_settings_end_in_a_sentence_and_leave_nothing(world, tmp_path, overrides, words):
    with pytest.raises(InputError) as error:
        command(world, tmp_path, *overrides)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert not (tmp_path / "run" / "export").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_output_folder_of_another_run_is_not_touched(world, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        command(world, tmp_path)
    assert os.listdir(tmp_path / "run") == ["mine.txt"]


def test_a_checkpoint_of_another_config_is_refused_with_the_difference(world, whole):
    with pytest.raises(InputError, match=r"loss\.beta was 1\.0 and is now 2\.0"):
        command(world, whole.parent, "--config.checkpoint.resume=auto", "--config.loss.beta=2.0")


def swap_answers(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["target"]["chosen"], rows[3]["target"]["rejected"] = rows[3]["target"]["rejected"], rows[3]["target"]["chosen"]
    write_lines(path, rows)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("rows.jsonl", swap_answers, r"contents\.rows was '8 with digest \w+' and is now '8 with digest"),
        ("texts.jsonl", lambda path: path.write_text(path.read_text() * 2), r"contents\.texts was '3 with .* and is now '6 with"),
        (
            "model/tokenizer_config.json",
            lambda path: path.write_text(path.read_text() + " "),
            r"model files\.tokenizer_config\.json",
        ),
        ("model/config.json", lambda path: path.write_text(path.read_text() + " "), r"model files\.config\.json was"),
    ],
    ids=["rows", "texts", "tokenizer", "config"],
)
def test_a_file_that_changed_since_the_checkpoint_is_refused_with_the_difference(world, whole, file, change, said):
    before = (world / file).read_bytes()
    try:
        change(world / file)
        with pytest.raises(InputError, match=rf"update 4 in .* belongs to another run: [^;]*{said}.*allow_changed=True"):
            command(world, whole.parent, "--config.checkpoint.resume=auto")
    finally:
        (world / file).write_bytes(before)


def test_a_run_that_would_go_on_under_a_finished_export_is_refused(world, whole, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copytree(whole / "export", tmp_path / "run" / "export")
    with pytest.raises(InputError, match="an export never overwrites"):
        command(world, tmp_path, "--config.checkpoint.resume=auto")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_no_permission_is_a_sentence(world, tmp_path):
    if os.geteuid() == 0:
        (tmp_path / "run").write_text("a file where the folder should be")  # root may write everywhere
    else:
        (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(InputError, match="output folder"):
        command(world, tmp_path)


WILD = "--config.optim.peak_lr=1e30"  # the weights after update 2 are too large to compute with


def test_numbers_that_are_not_finite_stop_the_run_with_the_rows(world, tmp_path):
    with pytest.raises(InputError) as error:
        command(world, tmp_path, WILD)
    assert "not finite" in str(error.value)
    assert "rows r" in str(error.value)
    assert not (tmp_path / "run" / "export").exists()


def test_a_state_is_never_kept_before_its_loss_has_been_looked_at(world, tmp_path):
    """A loss that is not finite between two lines of the log: no checkpoint of it takes the place of a good one."""
    with pytest.raises(InputError, match="update 3 is not finite"):
        command(world, tmp_path, WILD, "--config.metrics.every=100", "--config.checkpoint.every=1", "--config.eval_every=0")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())[-1] == "step_2"


@pytest.mark.parametrize("left", [None, "{"], ids=["gone", "half a file"])
def test_a_training_that_has_ended_can_be_exported_whatever_is_left_of_the_rest(world, whole, tmp_path, monkeypatch, left):
    """What was measured before is measured again, and a report that fails comes after the export."""
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "export")
    kept = tmp_path / "run" / "before.json"
    before = kept.read_text()
    kept.unlink() if left is None else kept.write_text(left)

    def fails(*_):
        raise RuntimeError("no fonts here")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "report", fails)
        with pytest.raises(RuntimeError, match="no fonts"):
            command(world, tmp_path, "--config.checkpoint.resume=auto")
    assert json.loads(kept.read_text()) == json.loads(before)
    exported, expected = (load_file(run / "export" / "model.safetensors") for run in (tmp_path / "run", whole))
    assert all((exported[name] == expected[name]).all() for name in expected)
    assert "+" in (tmp_path / "run" / "export" / "README.md").read_text().partition("## Reward gaps")[2][:400]


@pytest.mark.slow
def test_what_is_frozen_stays_bit_for_bit_and_needs_no_moments(world, tmp_path, interrupted):
    """Computed in bfloat16 and exported in float32, interrupted once: the frozen weights of the export are the source's."""
    frozen = ["--config.frozen=embedding,layers.mlp", "--config.compute_dtype=bfloat16", "--config.export.dtype=float32"]
    with interrupted(3):
        command(world, tmp_path, *frozen)
    run = command(world, tmp_path, *frozen, "--config.checkpoint.resume=auto")
    before, after = load_file(world / "model" / "model.safetensors"), load_file(run / "export" / "model.safetensors")
    same = {name for name in before if (before[name] == after[name]).all()}
    assert same == {name for name in before if "embed_tokens" in name or ".mlp." in name}
    kept = json.loads((run / "checkpoints" / "step_4" / "state" / "_METADATA").read_text())["tree_metadata"]
    assert not any(("embedding" in name and "unembedding" not in name) or "mlp'" in name for name in kept)


@pytest.mark.slow
def test_the_upper_layers_alone_are_trained_interrupted_and_exported(world, tmp_path, interrupted):
    frozen = ["--config.frozen=layers:1,embedding,final_norm,unembedding", "--config.export.dtype=float32"]
    with interrupted(3):
        command(world, tmp_path, *frozen)
    run = command(world, tmp_path, *frozen, "--config.checkpoint.resume=auto")
    whole = command(world, tmp_path / "uninterrupted", *frozen)
    before, after, other = (
        load_file(folder / "model.safetensors") for folder in (world / "model", run / "export", whole / "export")
    )
    assert {name for name in before if (before[name] != after[name]).any()} == {name for name in before if ".layers.1." in name}
    assert all((after[name] == other[name]).all() for name in before)
    kept = json.loads((run / "checkpoints" / "step_4" / "state" / "_METADATA").read_text())["tree_metadata"]
    assert any("top_layers" in name for name in kept) and not any("'layers'" in name for name in kept)


def test_the_command_prints_the_sentence_alone(world, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        train.main([f"--config={config_file(world, tmp_path)}", "--config.epochs=0"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: epochs=0")


def test_divergences_need_the_reference_at_every_step(world, tmp_path):
    with pytest.raises(InputError, match=r"write --config\.reference=live"):
        command(world, tmp_path, "--config.loss.retain_by=kl_of_policy", "--config.reference=cached")


@pytest.mark.slow
def test_methods_with_views_of_the_rows_train_with_either_reference(world, tmp_path):
    """KTO's mismatched pairs and another language's gap, in microbatches, from the data to the export."""
    values = {}
    # At the start every reward is 0 but for rounding, and accuracy is its sign. What is packed differs by intent.
    free = ("kto/rewards/accuracies", "eval_kto/rewards/accuracies", "packing_efficiency")
    for reference in ("live", "cached"):
        path = config_file(world, tmp_path / reference)
        loss = 'losses.Sum({"kto": losses.Kto(), "other": losses.Mpo(gap_target="sw")})'
        path.write_text("from mpo_jax import losses\n" + path.read_text().replace("optim=", f"loss={loss}, optim="))
        settings = [f"--config.reference={reference}", "--config.microbatches=2"]
        loop.train(parse([f"--config={path}", *settings]))
        lines = metrics(tmp_path / reference / "run")
        assert {"kto/z0", "eval_kto/z0", "other/gap/goal", "loss/kto"} <= set().union(*lines)
        values[reference] = [line[name] for line in lines for name in sorted(line) if name not in free]
    np.testing.assert_allclose(values["cached"], values["live"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_mesh_that_is_left_open_is_chosen_by_the_rule(world, whole, tmp_path, capsys):
    """Two microbatches of 8 sequences: four for each of two shards. The numbers are those of the other mesh."""
    run = command(world, tmp_path, "--config.mesh.auto=True", "--config.microbatches=2", "--config.export.enabled=False")
    assert "mesh: data=1 fsdp=2 tensor=4" in capsys.readouterr().out
    losses = [[line["loss"] for line in metrics(of) if "loss" in line] for of in (run, whole)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
