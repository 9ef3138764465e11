"""Which folder is a model, and what is said of what is none."""

from pathlib import Path

import huggingface_hub
import pytest

from mpo_jax.errors import InputError
from mpo_jax.files import hub

LLAMA = Path(__file__).parent.parent / "fixtures" / "llama"


def test_a_local_folder_is_itself():
    assert hub.resolve(LLAMA) == hub.resolve(str(LLAMA)) == LLAMA


def test_a_name_is_downloaded_without_subfolders_and_pickles(monkeypatch):
    asked = {}

    def snapshot_download(name, revision, **options):
        asked.update(options, name=name, revision=revision)
        return str(LLAMA)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert hub.resolve("user/name") == LLAMA
    files = [
        "config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json", "pytorch_model.bin",
        "original/params.json", "copy/model.safetensors", "modeling.py",
    ]  # fmt: skip
    options = {"allow_patterns": asked["allow_patterns"], "ignore_patterns": asked["ignore_patterns"]}
    kept = list(huggingface_hub.utils.filter_repo_objects(files, **options))
    assert asked["name"] == "user/name" and asked["revision"] is None and kept == files[:4]
    for revision in ("v1.0", "0e9e39f249a16976918f6564b8830bc894c89659", "refs/pr/1"):
        hub.resolve(f"user/name@{revision}", weights=False)
        assert (asked["name"], asked["revision"]) == ("user/name", revision)
    options = {"allow_patterns": asked["allow_patterns"], "ignore_patterns": asked["ignore_patterns"]}
    assert list(huggingface_hub.utils.filter_repo_objects(files, **options)) == ["config.json", "tokenizer.json"]


def test_a_local_folder_has_no_revision(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked the hub"))
    monkeypatch.chdir(LLAMA.parent.parent)
    for name in (str(LLAMA), "fixtures/llama"):
        with pytest.raises(InputError, match=r"llama@main is a local path with a revision, .*: write .*llama\.$"):
            hub.resolve(f"{name}@main")
    (tmp_path / "llama@main").symlink_to(LLAMA)
    assert hub.resolve(tmp_path / "llama@main") == tmp_path / "llama@main", "a folder of that name"


def test_a_failed_download_is_a_sentence(monkeypatch):
    def snapshot_download(name, **_):
        raise ConnectionError("no route\nmore lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(InputError, match=r"user/name .*\(no route\): check the name and the network.*HF_TOKEN"):
        hub.resolve("user/name")
    with pytest.raises(InputError, match=r"user/name@v1 .*: check the name, the revision and the network"):
        hub.resolve("user/name@v1")


@pytest.mark.parametrize(
    "path", ["./none", "/none/at/all", "~/none-at-all", "a/b/c", "user/name@", "a/b/c@v1", Path("user/name")]
)
def test_what_looks_like_a_path_is_never_downloaded(monkeypatch, path):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked the hub"))
    with pytest.raises(InputError, match="is not a folder"):
        hub.resolve(path)


def test_folders_without_what_makes_a_model(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        hub.resolve(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"no \*\.safetensors"):
        hub.resolve(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"pickled weights \(pytorch_model\.bin\)"):
        hub.resolve(tmp_path)
