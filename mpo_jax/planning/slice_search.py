"""Which is the smallest slice that a run fits, and with which mesh? Arithmetic rules candidates out, the compiler tries the
rest."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mpo_jax.devices.sharding import MeshConfig
from mpo_jax.files import hub
from mpo_jax.models.families.registry import build
from mpo_jax.planning.programs import lay_out
from mpo_jax.planning.slice_fit import SliceReport, compiled, least_bytes
from mpo_jax.planning.tpu_compiler import GIB, SLICES, devices, usable_bytes
from mpo_jax.telemetry.memory import bytes_on
from mpo_jax.training.config import AUTO, TrainConfig
from mpo_jax.training.mesh_choice import meshes

Settings = dict[str, Any]  # as `--config.NAME=value` takes them


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The answer for one TPU generation; None where none of the slices tried is large enough."""

    generation: str
    tried: tuple[str, ...]  # slices, in ascending order
    settings: Settings | None = None
    plan: SliceReport | None = None


def search(
    config: TrainConfig, topologies: Sequence[str], tokens: int | None, slices: int, say: Callable[[str], None]
) -> Iterator[SearchResult]:
    """For each generation among `topologies` (by default all of `tpu_compiler.SLICES`), from the smallest slice up: the first of
    its `candidates` that fits. `say` prints a line of progress. Errors: those of `lay_out`."""
    topologies = topologies or [f"{generation}:{name}" for generation, names in SLICES.items() for name in names]
    for generation in dict.fromkeys(topology.partition(":")[0] for topology in topologies):
        mine = [topology for topology in topologies if topology.partition(":")[0] == generation]
        mine.sort(key=lambda topology: len(devices(topology)))
        yield _smallest(config, generation, mine, tokens, slices, say)


def _smallest(
    config: TrainConfig, generation: str, topologies: list[str], tokens: int | None, slices: int, say: Callable[[str], None]
) -> SearchResult:
    begun = time.monotonic()
    for i, topology in enumerate(topologies):
        for j, candidate in enumerate(candidates(config, devices(topology, slices))):
            layout = lay_out(candidate, topology, tokens, slices)
            usable, (whatever, least) = usable_bytes(layout.devices[0].device_kind), least_bytes(layout)
            without_reference = whatever - bytes_on(layout.frozen.reference)
            if j == 0 and usable is not None and without_reference > usable:  # all candidates need this much
                say(f"{topology}: the state and its gradients take {without_reference / GIB:.2f} GiB of {usable / GIB:.2f}")
                break
            if usable is not None and least > usable:
                continue
            say(f"{topology} {flags(settings(layout.config))}: needs at least {least / GIB:.2f} GiB")
            say(f"  compiling, which takes minutes if it fits; {time.monotonic() - begun:.0f} s so far")
            entry = compiled(layout)
            if entry.fits:
                return SearchResult(generation, tuple(topologies[: i + 1]), settings(layout.config), entry)
            name, memory = list(entry.programs.items())[-1]
            say(f"  does not fit: the {name} needs {memory.peak / GIB:.2f} GiB")
        else:
            say(f"{topology}: none of the settings tried fits")
    return SearchResult(generation, tuple(topologies))


def candidates(config: TrainConfig, devices: Sequence[Any]) -> Iterator[TrainConfig]:
    """Settings to try on one slice, none of which changes what is learnt: the config's own reference before a cached one, its
    `remat` and `logits` before those that keep least, its microbatches before twice and four times as many, meshes in the order
    of `mesh_choice.meshes`."""
    _, model, _ = build(hub.resolve(config.model, weights=False))
    microbatches = [
        n for n in (config.microbatches, 2 * config.microbatches, 4 * config.microbatches) if config.batch_size % n == 0
    ]
    for reference, (remat, logits), n in itertools.product(
        dict.fromkeys((config.reference, "cached" if config.loss.reference_reads.storable else config.reference)),
        dict.fromkeys(((config.remat, config.logits), ("full", "recompute"))),
        microbatches,
    ):
        kept_gb = config.kept_gb if AUTO in (remat, logits) else None
        several = dataclasses.replace(config, reference=reference, remat=remat, logits=logits, kept_gb=kept_gb, microbatches=n)
        for mesh in meshes(several, model, devices):
            yield dataclasses.replace(several, mesh=mesh)


def settings(config: TrainConfig) -> Settings:
    mesh: MeshConfig = config.mesh
    return {
        **{f"mesh.{name}": getattr(mesh, name) for name in ("data", "fsdp", "tensor")},
        **{name: getattr(config, name) for name in ("reference", "remat", "logits", "microbatches")},
    }


def flags(chosen: Settings) -> str:
    return " ".join(f"--config.{name}={value}" for name, value in chosen.items())
