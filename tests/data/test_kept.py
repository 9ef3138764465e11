"""What is kept is found again, whole, or made again."""

import os
import stat

import pytest

from mpo_jax.data import kept
from mpo_jax.data.kept import ENTRY, Kept, digest_of
from mpo_jax.errors import InputError

KEY = {"texts": "abc", "length": 3}


@pytest.fixture
def store(tmp_path):
    return Kept(str(tmp_path / "cache"))


def fill(store, data=b"tokens", key=KEY):
    with store.made("tokens", key) as folder:
        (folder / "ids").write_bytes(data)


def test_an_entry_is_found_by_its_key_and_kind(store):
    assert store.find("tokens", KEY) is None
    fill(store)
    found = store.find("tokens", KEY)
    assert found is not None and (found / "ids").read_bytes() == b"tokens"
    assert store.find("tokens", KEY | {"length": 4}) is None
    assert store.find("audit", KEY) is None


def test_other_code_makes_other_entries(store, monkeypatch):
    fill(store)
    monkeypatch.setattr(kept, "code", lambda: "later")
    assert store.find("tokens", KEY) is None


def damaged(found, how):
    if how == "another byte":
        (found / "ids").write_bytes(b"tokenz")
    elif how == "cut short":
        (found / "ids").write_bytes(b"tok")
    elif how == "a file is gone":
        (found / "ids").unlink()
    elif how == "no entry":
        (found / ENTRY).unlink()
    elif how == "another key":
        (found / ENTRY).write_text((found / ENTRY).read_text().replace("abc", "abd"))
    else:
        (found / ENTRY).write_text(how)


@pytest.mark.parametrize(
    "how",
    ["another byte", "cut short", "a file is gone", "no entry", "another key", "", "null", "[]", "{", '{"key": 1, "files": 2}'],
)
def test_what_is_damaged_is_removed_and_made_again(store, how):
    fill(store)
    found = store.find("tokens", KEY)
    damaged(found, how)
    assert store.find("tokens", KEY) is None
    assert not found.exists()
    fill(store)
    assert store.find("tokens", KEY) == found


def test_what_fails_leaves_nothing(store, tmp_path):
    def interrupted():
        with store.made("tokens", KEY) as folder:
            (folder / "ids").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.find("tokens", KEY) is None
    assert not list((tmp_path / "cache").iterdir())


def test_of_two_that_make_the_same_one_stays(store, tmp_path):
    with store.made("tokens", KEY) as slow:
        (slow / "ids").write_bytes(b"tokens")
        fill(store)
    assert store.find("tokens", KEY) is not None
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_what_a_killed_process_left_goes_after_a_day(store, tmp_path):
    old, new = tmp_path / "cache" / ".partial-old", tmp_path / "cache" / ".partial-new"
    for left in (old, new):
        left.mkdir(parents=True)
    os.utime(old, (0, 0))
    fill(store)
    assert new.exists() and not old.exists()


def test_nothing_is_kept_where_no_folder_is_given():
    with Kept().made("tokens", KEY) as folder:
        (folder / "ids").write_bytes(b"tokens")
    assert not folder.exists()
    assert Kept().find("tokens", KEY) is None


def test_a_folder_that_cannot_be_used_is_an_error_that_names_the_setting(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data\.cache=.*file cannot be written"):
        fill(Kept(str(tmp_path / "file")))
    with pytest.raises(InputError, match=r"data\.cache=gs://.*"):
        Kept("gs://bucket/folder").find("tokens", KEY)


def test_a_digest_is_of_all_pieces_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "_PIECE", 4)
    found = set()
    for i, data in enumerate((b"abcdefgh", b"efghabcd", b"abcdefg", b"abcdefgi", b"")):
        path = tmp_path / str(i)
        path.write_bytes(data)
        found.add(digest_of(path))
    assert len(found) == 5


def test_entries_are_readable_by_their_owner(store):
    fill(store)
    assert stat.S_IMODE(store.find("tokens", KEY).stat().st_mode) & stat.S_IRWXU == stat.S_IRWXU
