"""In a bucket everything is as on a disk: what is read, what is written, what an interruption leaves, and what is refused."""

import importlib.util
from pathlib import Path

import bucket as emulated
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from world import command, config_file, metrics

from mpo_jax import reward_gap, sweep
from mpo_jax.checkpoints.export_folder import is_whole
from mpo_jax.checkpoints.run_state import flaw
from mpo_jax.data.chat import load_tokenizer
from mpo_jax.data.rows import read_rows
from mpo_jax.devices.sharding import MeshConfig
from mpo_jax.errors import InputError
from mpo_jax.files import hub, paths
from mpo_jax.files.digests import digests
from mpo_jax.files.paths import Lines, path_of
from mpo_jax.telemetry.plots import figure, save
from mpo_jax.telemetry.throughput import Trace
from mpo_jax.telemetry.writers import MetricsConfig, MetricWriter, read_metrics
from mpo_jax.training import loop
from tests.checkpoints import test_hugging_face as converted
from tests.checkpoints import test_run_state as kept
from tests.scoring import test_reference_store as scores


def names(folder: Path) -> list[str]:
    return sorted(paths._files(folder, "**"))


# ---- where is it?


def test_a_path_is_that_of_a_file_system_or_a_bucket_and_stays_so(bucket, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert path_of("runs/x") == Path("runs/x")
    assert path_of("~/x") == Path("/home/someone/x")
    for given in ("gs://bucket/a/b", path_of("gs://bucket/a/b"), path_of("gs://bucket/a") / "b"):
        assert str(path_of(given)) == str(paths.absolute(path_of(given))) == "gs://bucket/a/b"
    assert paths.kvstore(path_of("gs://bucket/a/b")) == {"driver": "gcs", "bucket": "bucket", "path": "a/b/"}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("s3://bucket/run", ["s3://bucket/run", "gs://BUCKET/FOLDER"]),
        ("gs://nobody-has-this/run", ["gs://nobody-has-this/run cannot be read", "check the bucket's name"]),
        ("gs://closed/run", ["gs://closed/run cannot be read (Forbidden", "service account"]),
        ("gs://read-only/run", ["output folder gs://read-only/run cannot be written (Forbidden", "another --config.output"]),
    ],
)
def test_a_place_that_cannot_be_is_a_sentence(bucket, world, tmp_path, path, words):
    with pytest.raises(InputError) as refused:
        command(world, tmp_path, f"--config.output={path}")
    assert all(word in str(refused.value) for word in words), refused.value
    assert "\n" not in str(refused.value)


def test_a_grid_in_a_bucket_has_a_folder_for_each_point_there(bucket, world, tmp_path):
    config = config_file(world, tmp_path)
    points = sweep.parse_points([f"--config={config}", "--config.output=gs://bucket/grid", "--grid=loss.beta=0.5,1"])
    assert [str(point.folder) for point in points] == ["gs://bucket/grid/loss.beta=0.5", "gs://bucket/grid/loss.beta=1"]
    (points[0].folder / "checkpoints" / "step_1" / "data").write_bytes(b"state")
    paths.remove(points[0].folder / "checkpoints")
    paths.remove(points[0].folder / "checkpoints")
    assert not points[0].folder.exists()


def test_without_its_package_a_bucket_is_a_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"gs://bucket/x needs the package gcsfs: run `pip install gcsfs`"):
        path_of("gs://bucket/x")


# ---- files


def test_a_file_that_grows_is_written_at_each_flush_and_now_and_then(folder, monkeypatch):
    path = folder / "lines"
    lines = Lines(path)
    lines.write("a")
    assert not path.exists(), "an object cannot grow, so it is not written for every line"
    lines.flush()
    assert path.read_text() == "a\n"
    lines.write("b")
    assert path.read_text() == "a\n", "nor for the next one"
    monkeypatch.setattr(paths.time, "monotonic", lambda: 1e12)
    lines.write("c")
    assert path.read_text() == "a\nb\nc\n"
    lines.close()
    again = Lines(path)
    again.write("d")
    again.close()
    assert path.read_text() == "a\nb\nc\nd\n"


def test_metrics_go_on_after_the_checkpoint_and_tensorboard_is_there(folder):
    def write(start, steps):
        writer = MetricWriter(MetricsConfig(), folder, start=start, updates=10, run={})
        for step in steps:
            writer.write(step, {"loss": 1.0 / step})
        writer.close()

    write(0, [1, 2, 3])
    write(2, [3, 4])
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == [1, 2, 3, 4]
    assert any("tfevents" in name for name in names(folder / "tensorboard"))


def test_a_picture_and_a_trace(folder):
    drawn, axes = figure(2, 2)
    axes.plot([1, 2])
    save(drawn, folder / "plot.png")
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    trace = Trace(range(1), folder / "profile")
    trace.turn()
    jax.block_until_ready(jnp.ones(3) + 1)
    trace.turn()
    assert any(name.endswith(".xplane.pb") for name in names(folder / "profile"))


def test_compiled_programs_are_kept_there(folder):
    from jax.experimental.compilation_cache import compilation_cache

    names_of = ("compilation_cache_dir", "enable_compilation_cache", "persistent_cache_min_compile_time_secs")
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names_of}
    try:
        compilation_cache.reset_cache()
        jax.config.update("jax_enable_compilation_cache", True)
        loop._keep_programs(str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.jit(lambda x: jnp.sin(x) * 41.5)(jnp.ones(7)).block_until_ready()
        assert any(name.startswith("jit_") for name in names(folder))
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def test_digests_are_the_servers(folder):
    for name in ("a", "inner/a", "b"):
        (folder / name).write_bytes(b"b" if name == "b" else b"a")
    found = digests(folder, ("**/*", "a"))
    assert list(found) == ["a", "b", "inner/a"]
    assert found["a"] == found["inner/a"] != found["b"]
    (folder / "a").write_bytes(b"c")
    assert digests(folder, ("a",))["a"] != found["a"], "a listing is never an old one"


def test_cached_scores_are_those_of_a_disk_and_are_there_the_next_time(folder, tmp_path):
    scores.filled(folder, until=2)
    again = scores.filled(folder)
    assert again.done == 5
    assert scores.ScoreStore(folder, scores.KEY, scores.SHAPES).done == 5
    local = scores.filled(tmp_path).read()
    for name, x in again.read().items():
        np.testing.assert_array_equal(x, local[name])
    (folder / "logp" / "c" / "1" / "0").unlink()
    with pytest.raises(InputError, match=r"gs://bucket/.* is not complete"):
        again.read()


# ---- checkpoints


def test_a_state_comes_back_and_the_newest_stay(folder):
    first = kept.checkpointer(folder, keep=2)
    for step in (2, 4, 6):
        first.save(step, kept.a_state(tiny.mesh(), step))
    first.close()
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_4", "step_6"]
    second = kept.checkpointer(folder)
    state, restored = kept.a_state(tiny.mesh(), 6), second.restore_latest(kept.abstract(tiny.mesh(2, 2, 2)))
    second.close()
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(old, new)


def largest(folder: Path) -> Path:
    files = paths._files(folder, "**")
    return folder / max(files, key=lambda name: files[name]["size"])


@pytest.mark.parametrize("damage", ["a flipped bit", "gone"])
def test_a_spoilt_checkpoint_is_skipped_and_set_aside(folder, capsys, damage):
    owner = kept.checkpointer(folder)
    for step in (2, 4):
        owner.save(step, kept.a_state(tiny.mesh(), step))
    owner.close()
    newest = folder / "checkpoints" / "step_4"
    kept.DAMAGE[damage](largest(newest / "state"))
    owner = kept.checkpointer(folder)
    assert int(owner.restore_latest(kept.abstract(tiny.mesh())).step) == 2
    assert "update 4 is damaged" in capsys.readouterr().out
    assert "digests.json" in names(folder / "broken_checkpoints" / "step_4"), "nothing is deleted"
    assert not newest.exists()
    owner.save(4, kept.a_state(tiny.mesh(), 4))  # when the run comes by again
    owner.close()
    assert flaw(newest) is None


def test_a_process_that_died_while_it_saved_leaves_nothing_to_restore(folder):
    """Orbax writes into the folder itself, and last a file that says that all of it is there."""
    owner = kept.checkpointer(folder)
    for step in (2, 4):
        owner.save(step, kept.a_state(tiny.mesh(), step))
    owner.close()
    (folder / "checkpoints" / "step_4" / "commit_success.txt").unlink()
    owner = kept.checkpointer(folder)
    assert int(owner.restore_latest(kept.abstract(tiny.mesh())).step) == 2
    owner.save(4, kept.a_state(tiny.mesh(), 4))
    owner.close()
    assert flaw(folder / "checkpoints" / "step_4") is None
    again = kept.checkpointer(folder)
    assert int(again.restore_latest(kept.abstract(tiny.mesh())).step) == 4
    again.close()


def test_a_checkpoint_that_may_not_be_written_is_a_sentence(folder, monkeypatch):
    owner = kept.checkpointer(folder)
    owner.save(2, kept.a_state(tiny.mesh(), 2))
    owner._manager.wait_until_finished()
    monkeypatch.setitem(emulated.REFUSES, emulated.NAME, {"POST"})
    with pytest.raises(InputError, match=r"update 4 could not be written to gs://bucket/.*Earlier checkpoints are untouched"):  # noqa: PT012
        owner.save(4, kept.a_state(tiny.mesh(), 4))
        owner.close()


# ---- Hugging Face folders


@pytest.mark.parametrize("mesh", [MeshConfig(1, 1, 1), MeshConfig(1, 2, 2), MeshConfig(1, 4, 1)], ids=str)
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_model_is_read_in_ranges_to_the_same_bits(folder, name, mesh, monkeypatch):
    emulated.put(converted.FIXTURES / name, folder)
    asked = []
    read = paths.read_range
    monkeypatch.setattr("mpo_jax.checkpoints.safetensors_files.read_range", lambda *at: asked.append(at) or read(*at))
    mine, local = (converted.load(path, mesh) for path in (hub.resolve(str(folder)), converted.FIXTURES / name))
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(local), strict=True):
        np.testing.assert_array_equal(a, b)
    assert max(stop - start for _, start, stop in asked) < paths.size(folder / "model.safetensors") / 2
    assert len(asked) == len(set(asked)), "no range twice"


def test_a_model_that_is_cut_is_a_sentence(folder):
    emulated.put(converted.FIXTURES / "llama", folder)
    data = (folder / "model.safetensors").read_bytes()
    for cut in (data[:-100], data[:50], b""):
        (folder / "model.safetensors").write_bytes(cut)
        with pytest.raises(InputError, match=r"gs://.*model\.safetensors is not a complete"):
            converted.load(folder)
    with pytest.raises(InputError, match=r"gs://bucket/nowhere is not a folder"):
        hub.resolve("gs://bucket/nowhere")


def test_a_tokenizer_and_rows(folder, world):
    emulated.put(world, folder)
    text = "hello"
    assert load_tokenizer(folder / "model")(text) == load_tokenizer(world / "model")(text)
    assert read_rows(str(folder / "rows.jsonl")) == read_rows(world / "rows.jsonl")
    with pytest.raises(InputError, match=r"gs://bucket/.*/other.jsonl does not exist"):
        read_rows(str(folder / "other.jsonl"))


def test_an_export_is_that_of_a_disk_and_half_of_one_is_no_export(folder, tmp_path, monkeypatch):
    source = converted.FIXTURES / "llama"
    params = converted.load(source)
    options = {"max_shard_bytes": 20_000, "dtype": "bfloat16"}
    local = converted.save(params, tmp_path / "export", source, **options)

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mpo_jax.checkpoints.hugging_face._write_sidecars", dies)
        with pytest.raises(KeyboardInterrupt):
            converted.save(params, folder / "export", source, **options)
    assert any(name.startswith("model-00001") for name in names(folder / "export")), "half of it is there"
    assert not (folder / "export" / "config.json").exists()
    assert not is_whole(folder / "export")
    (folder / "export" / "model-00001-of-99999.safetensors").write_bytes(b"of a run with other settings")
    assert converted.save(params, folder / "export", source, **options) == local
    assert is_whole(folder / "export")
    assert names(folder) == sorted(f"export/{path.name}" for path in (tmp_path / "export").iterdir())
    for path in (tmp_path / "export").iterdir():
        assert path.read_bytes() == (folder / "export" / path.name).read_bytes(), path.name
    with pytest.raises(InputError, match="an export never overwrites"):
        converted.save(params, folder / "export", source, **options)


# ---- the whole command


@pytest.mark.slow
def test_a_run_in_a_bucket_interrupted_and_resumed_is_the_run_on_a_disk(folder, world, whole, tmp_path, interrupted, capsys):
    emulated.put(world, folder / "world")
    read = [f"--config.{key}={folder}/world/{name}" for key, name in READ.items()]
    settings = [*read, f"--config.output={folder}/run", "--config.checkpoint.resume=auto"]
    with interrupted(3) as patch:
        patch.setattr(Lines, "close", lambda self: None)  # as when the process is killed
        command(world, tmp_path, *settings)
    assert not (folder / "run" / "export").exists()
    capsys.readouterr()
    command(world, tmp_path, *settings)
    assert "continuing after update 2" in capsys.readouterr().out
    run = folder / "run"
    assert metrics(run) == metrics(whole)
    for path in (whole / "export").iterdir():
        if path.name != "README.md":  # which names the clock's rates
            assert path.read_bytes() == (run / "export" / path.name).read_bytes(), path.name
    assert str(folder) not in (run / "export" / "README.md").read_text(), "where it was is nobody's business"
    for name in ("audit.json", "before.json", "reward_gap.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert not Path("gs:").exists()


READ = {"model": "model", "data.path": "rows.jsonl", "data.texts": "texts.jsonl"}


def test_gaps_are_measured_there(folder, world, tmp_path):
    emulated.put(world, folder / "world")
    settings = ["--template=hf", "--dtype=float32"]
    for at, out in ((folder / "world", folder / "gaps"), (world, tmp_path / "gaps")):
        reward_gap.main([f"--model={at}/model", f"--data={at}/rows.jsonl", f"--output={out}", *settings])
    for name in ("rows.jsonl", "reward_gap.json"):
        assert (folder / "gaps" / name).read_bytes() == (tmp_path / "gaps" / name).read_bytes()
