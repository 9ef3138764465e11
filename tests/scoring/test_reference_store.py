"""What is kept is what comes back, after any interruption, and nothing is mistaken for anything else."""

import json

import numpy as np
import pytest

from mpo_jax.errors import InputError
from mpo_jax.scoring import reference_store
from mpo_jax.scoring.reference_store import ScoreStore

KEY = {"weights": "abc", "reads": ["LOGP"], "pairs": 5}
SHAPES = {"logp": (5, 2), "hidden": (5, 2, 3)}
VALUES = {name: np.random.default_rng(0).normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def filled(folder, *, until: int = 5, key=KEY) -> ScoreStore:
    store = ScoreStore(folder, key, SHAPES)
    while store.done < until:
        store.append({name: x[store.done : store.done + 2] for name, x in VALUES.items()})
    return store


def test_what_was_appended_is_read_back(tmp_path):
    filled(tmp_path)
    read = ScoreStore(tmp_path, KEY, SHAPES).read()
    assert read.keys() == SHAPES.keys()
    for name, x in VALUES.items():
        np.testing.assert_array_equal(read[name], x)
        assert read[name].dtype == np.float32


def test_opening_writes_nothing(tmp_path):
    assert ScoreStore(tmp_path / "store", KEY, SHAPES).done == 0
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("marked", [False, True], ids=["while data is written", "before it is marked"])
def test_an_interruption_costs_one_batch(tmp_path, monkeypatch, marked):
    store = filled(tmp_path, until=2)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((reference_store, "write_json") if marked else (ScoreStore, "_open")), interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.append({name: np.zeros_like(x[2:4]) for name, x in VALUES.items()})
    assert ScoreStore(tmp_path, KEY, SHAPES).done == 2
    for name, x in filled(tmp_path).read().items():
        np.testing.assert_array_equal(x, VALUES[name])


def test_the_mark_comes_after_the_data(tmp_path, monkeypatch):
    seen = []

    def write_json(path, value):
        seen.append((value["done"], ScoreStore._open(store, "logp").read().result()[: value["done"]]))
        path.write_text(json.dumps(value))

    monkeypatch.setattr(reference_store, "write_json", write_json)
    store = ScoreStore(tmp_path, KEY, SHAPES)
    store.append({name: x[:2] for name, x in VALUES.items()})
    store.append({name: x[2:] for name, x in VALUES.items()})
    assert [done for done, _ in seen] == [2, 5]
    for done, logp in seen:
        np.testing.assert_array_equal(logp, VALUES["logp"][:done])


def test_a_batch_of_another_size_may_continue(tmp_path):
    store = filled(tmp_path, until=2)
    store.append({name: x[2:3] for name, x in VALUES.items()})
    for name, x in filled(tmp_path).read().items():
        np.testing.assert_array_equal(x, VALUES[name])


@pytest.mark.parametrize("changed", [{"weights": "abd"}, {"reads": ["LOGP", "HIDDEN"]}, {"pairs": 6}, {"new": 1}], ids=str)
def test_another_key_is_refused_by_name(tmp_path, changed):
    filled(tmp_path)
    ((name, value),) = changed.items()
    with pytest.raises(InputError) as error:
        ScoreStore(tmp_path, KEY | changed, SHAPES)
    message = str(error.value)
    assert f"{name} was {KEY.get(name)!r} and is now {value!r}" in message
    assert "--config.reference_store" in message
    assert "\n" not in message


def flip(path):
    content = bytearray(path.read_bytes())
    content[1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "logp/c/1/0"),
        lambda folder: (folder / "logp/c/1/0").write_bytes(b"short"),
        lambda folder: (folder / "logp/c/1/0").unlink(),
        lambda folder: (folder / "hidden/zarr.json").unlink(),
        lambda folder: (folder / "hidden/zarr.json").write_text("{"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text('{"key": '),
        lambda folder: (folder / "manifest.json").write_text("{}"),
        lambda folder: (folder / "manifest.json").write_text(json.dumps({"key": KEY, "done": 4})),
    ],
    ids=["bit", "short", "chunk gone", "array gone", "array unreadable", "no manifest", "half", "empty", "not all"],
)
def test_damage_is_a_sentence_that_says_what_to_do(tmp_path, damage):
    filled(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError) as error:
        ScoreStore(tmp_path, KEY, SHAPES).read()
    message = str(error.value)
    assert str(tmp_path) in message
    assert "delete that folder" in message
    assert "\n" not in message


def test_no_place_to_write_is_a_sentence(tmp_path):
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="store"):
        filled(tmp_path / "store")
