"""A digest tells names and bytes."""

from mpo_jax.files.digests import digests, fingerprint


def test_a_fingerprint_tells_names_and_bytes(tmp_path):
    patterns = ("config.json", "*.safetensors")
    for name in ("config.json", "a.safetensors", "b.safetensors", "README.md"):
        (tmp_path / name).write_text(name)
    seen = [fingerprint(digests(tmp_path, patterns))]
    (tmp_path / "README.md").write_text("other")
    assert fingerprint(digests(tmp_path, patterns)) == seen[0]
    for change in (
        lambda: (tmp_path / "config.json").write_text("other"),
        lambda: (tmp_path / "b.safetensors").write_text("other"),
        lambda: (tmp_path / "b.safetensors").rename(tmp_path / "c.safetensors"),
        lambda: (tmp_path / "a.safetensors").unlink(),
    ):
        change()
        seen.append(fingerprint(digests(tmp_path, patterns)))
    assert len(set(seen)) == 5


def test_files_of_folders_within_are_found_by_their_place(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("a", "inner/a"):
        (tmp_path / name).write_text("same")
    found = digests(tmp_path, ("**/*", "a"))
    assert list(found) == ["a", "inner/a"]
    assert found["a"] == found["inner/a"]
