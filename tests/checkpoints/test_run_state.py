"""A checkpoint comes back bit for bit, on any mesh, and only to the run that it belongs to."""

import dataclasses
import errno
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mpo_jax.checkpoints.run_state import CheckpointConfig, Checkpointer, flaw
from mpo_jax.errors import InputError
from mpo_jax.training.optim import OptimConfig, make_optimizer
from mpo_jax.training.run_identity import Identity
from mpo_jax.training.step import abstract_state, init_state

MODEL = tiny.model()
OPTIMIZER = make_optimizer(OptimConfig(moments_dtype="bfloat16"), 10)
FACTS = {"loss": {"type": "tiny"}, "optim": {"peak_lr": 1e-3}, "languages": ["sw", "zh"], "defaults": {}}


def checkpointer(folder, facts=FACTS, **settings):
    return Checkpointer(folder / "checkpoints", CheckpointConfig(**settings), Identity(facts))


def a_state(on, step=0):
    """With moments that are not all zero."""
    state = init_state(tiny.place(MODEL, tiny.two_params(MODEL)[0], on), OPTIMIZER, on)
    moved = jax.jit(lambda tree: jax.tree.map(lambda x: x + jnp.asarray(1, x.dtype), tree))(state.opt_state)
    return type(state)(jax.device_put(jnp.int32(step), state.step.sharding), state.trainable, moved)


def abstract(on):
    return abstract_state(MODEL.abstract(on), OPTIMIZER, on)


def a_wider_one():
    return abstract_state(tiny.model(ffn=128).abstract(tiny.mesh()), OPTIMIZER, tiny.mesh())


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 1), (2, 2, 2)], ids=str)
def test_a_state_comes_back_bit_for_bit_on_any_mesh(tmp_path, shape):
    state, like = a_state(tiny.mesh(4, 2, 1), step=3), abstract(tiny.mesh(*shape))
    first = checkpointer(tmp_path)
    first.save(3, state)
    first.close()
    second = checkpointer(tmp_path)
    restored = second.restore_latest(like)
    second.close()
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for old, new, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(restored), jax.tree.leaves(like), strict=True):
        np.testing.assert_array_equal(old, new)
        assert (new.dtype, new.sharding) == (wanted.dtype, wanted.sharding)


def test_the_newest_stay_and_a_kept_step_is_not_written_again(tmp_path):
    owner = checkpointer(tmp_path, keep=2)
    for step in (2, 4, 6, 6):
        owner.save(step, a_state(tiny.mesh(), step))
    owner.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_4", "step_6"]
    again = checkpointer(tmp_path)
    assert int(again.restore_latest(abstract(tiny.mesh())).step) == 6
    again.close()


def test_nothing_kept_is_nothing_restored(tmp_path):
    owner = checkpointer(tmp_path)
    assert owner.restore_latest(abstract(tiny.mesh())) is None
    owner.close()


def test_another_run_is_refused_with_the_difference(tmp_path):
    first = checkpointer(tmp_path)
    first.save(1, a_state(tiny.mesh()))
    first.close()
    second = checkpointer(tmp_path, {**FACTS, "optim": {"peak_lr": 2e-3}})
    with pytest.raises(InputError, match=r"update 1 in .* belongs to another run: optim\.peak_lr was 0\.001 and is now 0\.002"):
        second.restore_latest(abstract(tiny.mesh()))
    second.close()


@pytest.mark.parametrize(
    ("every", "due"), [(0, []), (2, [2, 4, 5]), (5, [5]), (50, [5])], ids=["never", "every second", "the last", "only the end"]
)
def test_when_a_checkpoint_is_due(tmp_path, every, due):
    owner = checkpointer(tmp_path, every=every)
    assert [step for step in range(1, 6) if owner.due(step, 5)] == due
    owner.close()


@pytest.mark.parametrize("settings", [{"every": -1}, {"keep": 0}, {"resume": "always"}], ids=str)
def test_settings_that_mean_nothing(settings):
    with pytest.raises(InputError, match=rf"checkpoint\.{next(iter(settings))}="):
        CheckpointConfig(**settings)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "a flipped bit": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "gone": lambda path: path.unlink(),
}


@pytest.fixture(scope="module")
def two_kept(tmp_path_factory):
    """A folder with checkpoints of the updates 2 and 4."""
    folder = tmp_path_factory.mktemp("two_kept")
    owner = checkpointer(folder)
    for step in (2, 4):
        owner.save(step, a_state(tiny.mesh(), step))
    owner.close()
    return folder


def largest(step_folder):
    """An array's file, of which Orbax itself would restore any bits."""
    return max((path for path in (step_folder / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("which", ["array", "identity/metadata", "state/_METADATA", "digests.json"])
def test_the_newest_whole_one_is_restored_and_a_sentence_says_what_is_skipped(two_kept, tmp_path, capsys, damage, which):
    shutil.copytree(two_kept / "checkpoints", tmp_path / "checkpoints")
    newest = tmp_path / "checkpoints" / "step_4"
    damage(largest(newest) if which == "array" else newest / which)
    owner = checkpointer(tmp_path)
    state = owner.restore_latest(abstract(tiny.mesh()))
    assert int(state.step) == 2
    assert "update 4 is damaged" in capsys.readouterr().out
    assert (tmp_path / "broken_checkpoints" / "step_4").is_dir(), "nothing is deleted"
    owner.save(4, a_state(tiny.mesh(), 4))  # when the run comes by again
    owner.close()
    assert flaw(newest) is None


def test_only_broken_ones_are_no_reason_to_start_anew(two_kept, tmp_path):
    shutil.copytree(two_kept / "checkpoints", tmp_path / "checkpoints")
    for step in (2, 4):
        DAMAGE["truncated"](largest(tmp_path / "checkpoints" / f"step_{step}"))
    owner = checkpointer(tmp_path)
    with pytest.raises(InputError, match=r"Every checkpoint in .* is damaged \(update 4: .* changed since.*; update 2: "):
        owner.restore_latest(abstract(tiny.mesh()))
    owner.close()
    assert (tmp_path / "checkpoints" / "step_4").is_dir()


def test_a_process_that_died_while_it_saved_leaves_nothing_to_restore(two_kept, tmp_path):
    """Orbax writes into a folder of another name; the next run deletes it."""
    shutil.copytree(two_kept / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "step_4").rename(tmp_path / "checkpoints" / "step_4.orbax-checkpoint-tmp")
    owner = checkpointer(tmp_path)
    assert int(owner.restore_latest(abstract(tiny.mesh())).step) == 2
    owner.save(4, a_state(tiny.mesh(), 4))
    owner.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_2", "step_4"]


def test_what_changed_is_allowed_by_name_and_said(two_kept, tmp_path, capsys):
    shutil.copytree(two_kept / "checkpoints", tmp_path / "checkpoints")
    owner = checkpointer(tmp_path, {**FACTS, "loss": {"type": "other"}}, allow_changed=True)
    assert int(owner.restore_latest(abstract(tiny.mesh())).step) == 4
    said = capsys.readouterr().out
    assert "update 4 belongs to another run, which checkpoint.allow_changed allows: loss.type was 'tiny'" in said
    with pytest.raises(InputError, match=r"update 4 in .* does not fit what this run trains .*: undo the changed settings"):
        owner.restore_latest(a_wider_one())
    owner.close()


def test_a_state_of_another_version_is_a_sentence(two_kept, tmp_path):
    """Nothing differs that makes a run, and its state is laid out in another way all the same."""
    shutil.copytree(two_kept / "checkpoints", tmp_path / "checkpoints")
    for laid_out in (dataclasses.replace(abstract(tiny.mesh()), opt_state={}), a_wider_one()):
        owner = checkpointer(tmp_path)
        with pytest.raises(
            InputError, match=r"update 4 in .* does not fit what this run trains .*: another version of mpo_jax wrote it"
        ):
            owner.restore_latest(laid_out)
        owner.close()


def test_no_room_is_a_sentence_and_earlier_ones_stay(tmp_path, monkeypatch):
    """The disk is full while the digests are written, which is the end of a save."""
    owner = checkpointer(tmp_path)
    owner.save(2, a_state(tiny.mesh(), 2))
    owner.save(4, a_state(tiny.mesh(), 4))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    owner._manager.wait_until_finished()
    monkeypatch.setattr("mpo_jax.checkpoints.run_state.write_json", full)
    owner.save(6, a_state(tiny.mesh(), 6))
    with pytest.raises(
        InputError, match=r"update 6 could not be written to .* \(No space left on device\)\. Earlier checkpoints"
    ):
        owner.close()
    monkeypatch.undo()
    again = checkpointer(tmp_path)
    assert int(again.restore_latest(abstract(tiny.mesh())).step) == 4
    again.close()


def test_processes_that_are_gone_are_no_full_disk(tmp_path, monkeypatch):
    """JAX raises a ValueError for some collectives that fail, as tensorstore does for files."""
    owner = checkpointer(tmp_path)

    def gone(*_, **__):
        raise ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")

    with monkeypatch.context() as patched:
        patched.setattr(owner._manager, "save", gone)
        with pytest.raises(ValueError, match="Gloo"):
            owner.save(2, a_state(tiny.mesh(), 2))
    owner.close()
