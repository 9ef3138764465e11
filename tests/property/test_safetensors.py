"""Whatever lies in a folder of weights, opening it ends in tensors of the shapes that it says or in a sentence.

Files are read as from a disk and as from a bucket, where the header is ours to understand: there, too, is read what safetensors
reads, and nothing else.
"""

import copy
import json
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from outcome import outcome
from safetensors.numpy import save

from mpo_jax.checkpoints import safetensors_files
from mpo_jax.checkpoints.safetensors_files import FLOATS, INDEX, catalogue
from mpo_jax.errors import InputError

NAME = "model.safetensors"
WHOLE = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.float16)})
HEADER = json.loads(WHOLE[8 : 8 + int.from_bytes(WHOLE[:8], "little")])
DATA = WHOLE[-32:]

numbers = st.sampled_from([0, 1, 2, 3, 4, 6, 8, 10, 24, 32, 34, 35, -1, -2, 2**31, 2**63, 2**64, 1.0])
WRONG = [None, "", "a", "F32", "F64", "BF16", "F8_E5M2", "X", [], {}, [[]]]
wrong = st.sampled_from(WRONG).map(copy.deepcopy) | st.lists(numbers, max_size=3) | numbers


@st.composite
def headers(draw) -> object:
    """The header with some of its parts replaced, taken out or joined by another."""
    header = json.loads(json.dumps(HEADER))
    for _ in range(draw(st.integers(1, 2))):
        tensor = draw(st.sampled_from(sorted(HEADER)))
        change = draw(st.sampled_from(["field", "field", "field", "tensor", "out", "more"]))
        if change == "field" and isinstance(header.get(tensor), dict):
            header[tensor][draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = draw(wrong)
        elif change == "tensor":
            header[tensor] = draw(wrong)
        elif change == "out":
            header.pop(tensor, None)
        else:
            header |= draw(st.sampled_from([{"__metadata__": {"format": "pt"}}, {"d": {}}, {"": None}, {"d": header.get("b")}]))
    return header


def file_of(header: bytes, data: bytes = DATA, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def changed(tensor: str, **fields) -> bytes:
    return json.dumps(HEADER | {tensor: HEADER[tensor] | fields}).encode()


@st.composite
def files(draw) -> bytes:
    kind = draw(st.sampled_from(["header", "header", "length", "bytes"]))
    if kind == "header":
        header = draw(st.one_of(headers(), headers(), wrong))
        return file_of(json.dumps(header).encode(), draw(st.sampled_from([DATA, DATA, DATA[:-2], b""])))
    if kind == "length":
        length = draw(st.integers(0, len(WHOLE)) | st.sampled_from([2**31, 2**63 - 1, 2**64 - 1]))
        return struct.pack("<Q", length) + WHOLE[8:]
    start = draw(st.integers(0, len(WHOLE)))
    return WHOLE[:start] + draw(st.binary(max_size=3)) + WHOLE[draw(st.integers(start, len(WHOLE))) :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def in_bucket():
    """A call as if local files lay in a bucket."""

    def read_range(path, start, stop):
        data = path.read_bytes()
        assert 0 <= start <= stop <= len(data), "a server refuses this, or sends what nobody needs"
        return data[start:stop]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors_files.paths, "size", lambda path: path.stat().st_size)
        patch.setattr(safetensors_files, "read_range", read_range)

        def call(function):
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(safetensors_files, "in_bucket", lambda path: True)
                return function()

        yield call


def read(folder) -> dict[str, tuple[str, np.ndarray | tuple[int, ...]]]:
    """Type and values of every tensor, only the shape of those that no model has."""
    found = {}
    safetensors_files._kept.cache_clear()
    for name, stored in catalogue(folder).items():
        found[name] = (stored.dtype, stored.shape)
        if stored.dtype in FLOATS and stored.shape:
            found[name] = (stored.dtype, stored[(slice(None),) * len(stored.shape)])
            assert found[name][1].shape == stored.shape
    return found


@given(content=files())
@example(WHOLE)
@example(b"")
@example(WHOLE[:5])
@example(file_of(b"[]"))
@example(file_of(b"{}", b""))
@example(file_of(b"[" * 100_000))
@example(file_of(changed("a", shape=[2**40, 3])))
@example(file_of(changed("a", shape=[2, 2])))
@example(file_of(changed("b", shape=[-2, -2])))
@example(file_of(changed("b", data_offsets=[16, 24]), DATA[:24]))
def test_any_file_ends_in_tensors_or_in_a_sentence(folder, in_bucket, content):
    (folder / NAME).write_bytes(content)
    (folder / INDEX).unlink(missing_ok=True)
    on_disk = outcome(lambda: read(folder))
    in_a_bucket = outcome(lambda: in_bucket(lambda: read(folder)))
    if not isinstance(in_a_bucket, InputError) and all(dtype in FLOATS for dtype, _ in in_a_bucket.values()):
        assert not isinstance(on_disk, InputError), on_disk
    if not isinstance(on_disk, InputError):
        assert not isinstance(in_a_bucket, InputError), in_a_bucket
        assert on_disk.keys() == in_a_bucket.keys()
        for name, (dtype, values) in on_disk.items():
            assert in_a_bucket[name][0] == dtype
            np.testing.assert_array_equal(in_a_bucket[name][1], values)


file_name = st.sampled_from([NAME, "model-00001-of-00002.safetensors", "", ".", "..", "/", "a\x00b", "x" * 300, "\n", "\ud83d"])
weight_maps = st.dictionaries(st.sampled_from(["a", "b", ""]), file_name | wrong, max_size=3) | wrong
indices = st.builds(lambda value: {"metadata": {}, "weight_map": value}, weight_maps) | wrong


@given(index=indices.map(json.dumps).map(str.encode) | st.binary(max_size=8))
@example(b'{"weight_map": {"a": 3}}')
@example(b'{"weight_map": {"a": "%s"}}' % (b"x" * 300))
@example(b"[" * 100_000)
def test_any_index_ends_in_tensors_or_in_a_sentence(folder, index):
    (folder / NAME).write_bytes(WHOLE)
    (folder / INDEX).write_bytes(index)
    outcome(lambda: read(folder))
