"""The rule for a mesh that a config leaves open: fsdp while it leaves every shard two sequences, then tensor."""

import dataclasses

import jax
import pytest
import tiny

from mpo_jax.data.dataset import DataConfig
from mpo_jax.devices.sharding import MeshConfig, make_mesh
from mpo_jax.errors import InputError
from mpo_jax.losses import Mpo, Simpo
from mpo_jax.models.decoder import Model
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.mesh_choice import chosen, meshes

AUTO = TrainConfig(model="", data=DataConfig(""), output="", mesh=MeshConfig(auto=True))


@dataclasses.dataclass(frozen=True)
class Chip:
    """What `sharding` asks of a device of a TPU slice."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0
    process_index: int = 0


def chips(slices: int, width: int = 2) -> list[Chip]:
    """Slices of `width` x 2 chips, in no order of slices."""
    return [Chip(i * slices + s, s, (i % width, i // width, 0)) for i in range(2 * width) for s in range(slices)]


def sizes(mesh: MeshConfig) -> tuple[int, int, int]:
    return mesh.data, mesh.fsdp, mesh.tensor


@pytest.mark.parametrize(
    ("rows", "microbatches", "loss", "expected"),
    [
        (8, 1, Mpo(), (1, 8, 1)),  # 32 sequences
        (8, 2, Mpo(), (1, 8, 1)),
        (8, 4, Mpo(), (1, 4, 2)),  # 8 sequences: 8 shards would have one each
        (4, 1, Simpo(), (1, 4, 2)),  # reads one side
        (1, 1, Mpo(), (1, 2, 4)),
        (1, 1, Simpo(), (1, 1, 8)),
    ],
)
def test_two_sequences_a_shard(rows, microbatches, loss, expected):
    config = dataclasses.replace(AUTO, batch_size=rows, microbatches=microbatches, loss=loss)
    mesh = chosen(config, tiny.model(), jax.devices())
    assert sizes(mesh) == expected
    assert make_mesh(mesh).devices.shape == expected


def test_a_mesh_that_is_given_stays():
    mesh = MeshConfig(2, 2, 2)
    assert chosen(dataclasses.replace(AUTO, mesh=mesh), tiny.model(), jax.devices()) is mesh


def test_only_meshes_that_divide_the_model():
    """Of 4 key/value heads at most 4 can be split off, so 8 shards with one sequence each come before none."""
    config = dataclasses.replace(AUTO, batch_size=2)
    model = Model(dataclasses.replace(tiny.CONFIG, kv_heads=2))
    assert [sizes(mesh) for mesh in meshes(config, model, jax.devices())] == [(1, 4, 2), (1, 8, 1)]
    with pytest.raises(
        InputError, match=r"^No mesh of 7 devices per slice divides the model's width of 32 and its 2 key/value heads"
    ):
        meshes(config, model, jax.devices()[:7])


def test_slices_lie_along_data():
    """Every slice has all parameters: the chips of one are a block of the first axis, whatever order they come in."""
    devices = chips(slices=2, width=4)
    mesh = chosen(AUTO, tiny.model(), devices)
    assert sizes(mesh) == (2, 8, 1)
    array = make_mesh(mesh, devices).devices
    assert array.shape == (2, 8, 1)
    assert [{chip.slice_index for chip in block.flat} for block in array] == [{0}, {1}]
    four = make_mesh(MeshConfig(4, 2, 2), devices).devices
    assert [{chip.slice_index for chip in block.flat} for block in four] == [{0}, {0}, {1}, {1}]
    with pytest.raises(InputError, match=r"data=1 fsdp=16 tensor=1 would shard .* 2 TPU slices .* write data=2"):
        make_mesh(MeshConfig(fsdp=16), devices)


def test_auto_and_axes_exclude_each_other():
    with pytest.raises(
        InputError,
        match=r"mesh.auto=True chooses the whole mesh, but data=1 fsdp=4 tensor=1 was given too: leave one or the other out",
    ):
        MeshConfig(fsdp=4, auto=True)
