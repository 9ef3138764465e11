"""A digest tells names and bytes."""

from mpo_jax.files.digests import digests, fingerprint, sampled


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


def test_a_sample_tells_models_apart_and_reads_little(tmp_path, monkeypatch):
    """Of a small file all is read, of a large one its pieces: a change within one, or another size, is another digest."""
    monkeypatch.setattr("mpo_jax.files.digests.SAMPLES", 4)
    monkeypatch.setattr("mpo_jax.files.digests.SAMPLE", 8)
    small, large = bytes(range(20)), bytes(100)
    (tmp_path / "small").write_bytes(small)
    (tmp_path / "large").write_bytes(large)
    first = sampled(tmp_path, ("*",))
    assert list(first) == ["large", "small"]
    for name, data in (("small", small[:-1] + b"x"), ("large", large[:52] + b"x" + large[53:]), ("large", large + b"\0")):
        (tmp_path / name).write_bytes(data)
        again = sampled(tmp_path, ("*",))
        assert again[name] != first[name], name
        first = again
    (tmp_path / "large").write_bytes(large[:40] + b"x" + large[41:] + b"\0")
    unnoticed = sampled(tmp_path, ("large",))
    (tmp_path / "large").write_bytes(large + b"\0")
    assert unnoticed == sampled(tmp_path, ("large",)), "between the pieces nothing is read"
