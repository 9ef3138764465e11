"""The rule for a mesh that a config leaves open: fsdp while it leaves every shard four sequences, then tensor."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.dataset import DataConfig
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.devices.sharding import MeshConfig, make_mesh
from mpo_jax.errors import InputError
from mpo_jax.losses import Mpo, Simpo
from mpo_jax.models.decoder import Model
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.mesh_choice import advice, chosen, meshes

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
        (8, 2, Mpo(), (1, 4, 2)),  # 16: 8 shards would have two each
        (8, 4, Mpo(), (1, 2, 4)),
        (8, 1, Simpo(), (1, 4, 2)),  # reads one side
        (1, 1, Mpo(), (1, 1, 8)),
        (16, 1, Simpo(), (1, 8, 1)),
    ],
)
def test_four_sequences_a_shard(rows, microbatches, loss, expected):
    config = dataclasses.replace(AUTO, batch_size=rows, microbatches=microbatches, loss=loss)
    mesh = chosen(config, tiny.model(), jax.devices())
    assert sizes(mesh) == expected
    assert make_mesh(mesh).devices.shape == expected


def like_the_authors(rows: int) -> list[Example]:
    """Rows whose lengths are distributed like those of the published data: short answers in the dominant language, and in the
    target languages answers of which most were cut after 512 tokens."""
    random = np.random.default_rng(0)

    def tokens(count: float) -> np.ndarray:
        return np.zeros(int(count), np.int32)

    def about(mean: float, spread: float, least: float, most: float) -> np.ndarray:
        return tokens(np.clip(mean * np.exp(random.normal(-(spread**2) / 2, spread)), least, most))

    def row(i: int) -> Example:
        rejected = np.clip(random.normal(99, 53), 4, 320)
        source = TokenPair(about(36, 0.4, 16, 90), about(44, 0.9, 8, 129), tokens(rejected))
        cut = tokens(512) if random.random() < 0.8 else tokens(random.uniform(4, 512))
        return Example(str(i), "sw", source, TokenPair(about(71, 0.65, 10, 490), tokens(512), cut))

    return list(map(row, range(rows)))


@pytest.mark.parametrize("loss", [Mpo(), Simpo()], ids=["mpo", "simpo"])
@pytest.mark.parametrize("devices", [1, 2, 4, 8, 16, 32])
def test_nine_tenths_of_the_positions_are_filled_on_every_mesh_that_is_chosen(devices, loss):
    config = dataclasses.replace(AUTO, loss=loss)
    mesh = chosen(config, tiny.model(), chips(1, devices // 2) if devices > 1 else chips(1, 1)[:1])
    assert mesh.data * mesh.fsdp * mesh.tensor == devices
    pieces = mesh.data * mesh.fsdp
    reads = loss.policy_reads, loss.reference_reads
    shapes = Pipeline(like_the_authors(600), ("sw",), config.batch_size, 0, *reads, epochs=2, shards=pieces).shapes
    assert shapes.filled >= 0.9
    assert len(shapes.policy.capacities) <= 5
    assert advice(config, tiny.model(), jax.devices(), {"data": mesh.data, "fsdp": mesh.fsdp}, shapes.filled) is None


def test_what_would_fill_a_batch_that_is_spread_too_thin():
    """Eight shards for eight sequences."""
    config = dataclasses.replace(AUTO, batch_size=4, microbatches=2)
    said = advice(config, tiny.model(), jax.devices(), {"data": 1, "fsdp": 8, "tensor": 1}, 0.5)
    assert said == (
        "50% of the positions that the devices compute are empty, since the sequences of a microbatch, 1 for each shard, differ "
        "in length. To fill them, write --config.mesh.data=1 --config.mesh.fsdp=2 --config.mesh.tensor=4, which "
        "--config.mesh.auto=True would choose, or write fewer --config.microbatches than 2, if there is memory for it, or raise "
        "--config.batch_size above 4, which changes what is learnt."
    )
    said = advice(dataclasses.replace(config, microbatches=1), tiny.model(), jax.devices(), {"data": 1, "fsdp": 2}, 0.8)
    assert said is not None
    assert said.endswith("To fill them, raise --config.batch_size above 4, which changes what is learnt.")


def test_advice_for_devices_of_which_no_chosen_mesh_could_be_made():
    """Seven replicas divide any model."""
    said = advice(AUTO, tiny.model(), jax.devices()[:7], {"data": 7, "fsdp": 1, "tensor": 1}, 0.5)
    assert said is not None
    assert "mesh" not in said


def test_a_mesh_that_is_given_stays():
    mesh = MeshConfig(2, 2, 2)
    assert chosen(dataclasses.replace(AUTO, mesh=mesh), tiny.model(), jax.devices()) is mesh


def test_only_meshes_that_divide_the_model():
    """Of 2 key/value heads at most 2 can be split off: 4 shards have four sequences each, 8 have two."""
    config = dataclasses.replace(AUTO, batch_size=4)
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
    assert sizes(mesh) == (2, 4, 2)
    array = make_mesh(mesh, devices).devices
    assert array.shape == (2, 4, 2)
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
