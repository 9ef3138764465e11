"""How are Hugging Face checkpoints imported and exported? One tensor at a time, bit for bit.

Import: each device's part of each layer is read from the safetensors files straight into sharded arrays. Export: a folder that
transformers and vLLM read, and that appears only when it is complete.
"""

import collections
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from safetensors.numpy import save_file

from mpo_jax.checkpoints.export_folder import check_export_dir, whole_folder
from mpo_jax.checkpoints.safetensors_files import FLOATS, INDEX, Stored, catalogue, text_model, weights_beside
from mpo_jax.devices import processes
from mpo_jax.errors import InputError
from mpo_jax.files import hub, paths
from mpo_jax.files.paths import path_of, written_locally
from mpo_jax.models.adapters import change
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.base import Family, write_config
from mpo_jax.models.families.registry import build
from mpo_jax.models.parameters import Adapted, in_stack
from mpo_jax.models.weight_table import Place, Weight, hf_tensor, in_order, leaf, to_host
from mpo_jax.types import Params


def load_params(
    hf_dir: Path | str,
    model: Model,
    family: Family,
    mesh: Mesh,
    dtype: Any = jnp.float32,
    only: Collection[str] | None = None,
    layers: range | None = None,
) -> Params:
    """The parameters of a folder in Hugging Face's layout, sharded over `mesh`, in `dtype`; with `only`, just the parameters with
    these dotted names; with `layers`, just these layers of them, as stacks of so many.

    The host holds one layer's tensor at a time, and only the part that its devices need. float32 masters of bfloat16 files are
    exact.
    Errors: a missing, misshapen, unexpected or integer tensor; a truncated file; an index that names a missing file.
    """
    stored, tensors = _checked(path_of(hf_dir), model, family)
    abstract = model.abstract(mesh, dtype)
    if only is not None:
        tensors = [tensor for tensor in tensors if tensor[1].weight.ours in only]
    layers = range(model.config.layers) if layers is None else layers
    tensors = [tensor for tensor in tensors if tensor[2] is None or tensor[2] in layers]
    arrays: dict[str, jax.Array] = {}
    putters: dict[str, Callable[..., jax.Array]] = {}
    for name, place, layer in processes.progress(tensors, desc="load", unit="tensor", delay=2):
        ours = place.weight.ours
        target = leaf(abstract, ours)
        if layer is None:
            arrays[ours] = _read(stored[name], place, target.sharding, dtype)
            continue
        if layer == layers.start:
            # One allocation and one compiled update a parameter, not one a layer.
            shape = (len(layers), *target.shape[1:])
            arrays[ours] = jax.jit(lambda s=shape, t=target: jnp.zeros(s, t.dtype), out_shardings=target.sharding)()
            putters[ours] = jax.jit(_put_layer, donate_argnums=0, out_shardings=target.sharding)
        part = _read(stored[name], place, NamedSharding(mesh, jax.P(*target.sharding.spec[1:])), dtype)
        arrays[ours] = jax.block_until_ready(
            putters[ours](arrays[ours], part, np.int32(layer - layers.start))
        )  # or host copies pile up
    return _nested(arrays)


def layer_reader(hf_dir: Path | str, model: Model, family: Family, mesh: Mesh, dtype: Any) -> Callable[[int], Params]:
    """A function from a layer's number to its parameters on the mesh, without the axis of the layers: for whoever goes through a
    model that does not fit into memory. Errors: those of `load_params`."""
    stored, tensors = _checked(path_of(hf_dir), model, family)
    abstract = model.abstract(mesh, dtype)

    def read(layer: int) -> Params:
        arrays: dict[str, jax.Array] = {}
        for name, place, of in tensors:
            if of == layer:
                spec = leaf(abstract, place.weight.ours).sharding.spec
                ours = place.weight.ours.removeprefix("layers.")
                arrays[ours] = _read(stored[name], place, NamedSharding(mesh, jax.P(*spec[1:])), dtype)
        return _nested(arrays)

    return read


Tensors = list[tuple[str, Place, int | None]]  # (name, place, layer), as `in_order` lists them


def _checked(hf_dir: Path, model: Model, family: Family) -> tuple[dict[str, Stored], Tensors]:
    """What the folder has and what the model declares, which agree."""
    (stored, beside), tensors = text_model(catalogue(hf_dir)), list(in_order(model, family.weights(model.config)))
    if left := (*weights_beside(hf_dir), *beside):
        _say_left(hf_dir, left)
    _check(hf_dir, stored, tensors, tied=model.config.tied)
    return stored, tensors


@functools.cache  # a folder may be read more than once
def _say_left(hf_dir: Path, names: tuple[str, ...]) -> None:
    processes.say(f"{hf_dir}: left alone, since the text model does not need it: {_some(names)}")


def _nested(arrays: dict[str, jax.Array]) -> Params:
    """Dotted name -> array, as a tree."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *groups, last = name.split(".")
        functools.reduce(lambda node, group: node.setdefault(group, {}), groups, tree)[last] = array
    return tree


def _put_layer(stack: jax.Array, part: jax.Array, layer: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stack, part, layer, axis=0)


def _read(stored: Stored, place: Place, sharding: NamedSharding, dtype: Any) -> jax.Array:
    """One tensor in our layout; each part is read from the file once, however many devices hold a copy of it."""
    seen: dict[tuple[tuple[int, int, int], ...], np.ndarray] = {}

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        key = tuple(s.indices(n) for s, n in zip(index, place.shape, strict=True))
        if key not in seen:
            seen[key] = np.ascontiguousarray(place.import_slice(stored, index), dtype=dtype)
        return seen[key]

    return jax.make_array_from_callback(place.shape, sharding, part, dtype=dtype)


def _check(folder: Path, stored: dict[str, Stored], tensors: Tensors, *, tied: bool) -> None:
    """Errors: the files do not hold exactly what the model declares."""
    expected = {name: place.hf_shape for name, place, _ in tensors}
    if missing := [name for name in expected if name not in stored]:
        raise InputError(f"{folder} lacks {_some(missing)}: the copy is incomplete, or config.json belongs to another model.")
    for name, shape in expected.items():
        found = stored[name]
        if found.shape != shape:
            raise InputError(
                f"{found.path}: {name} has the shape {found.shape}, but config.json implies {shape}: give the model's own "
                "config.json."
            )
        if found.dtype not in FLOATS:
            raise InputError(f"{found.path}: {name} has the type {found.dtype}: give weights of type {' or '.join(FLOATS)}.")
    # Old checkpoints store the rotary frequencies, and some a copy of the embedding that tied weights do not need.
    ignored = lambda name: name.endswith("rotary_emb.inv_freq") or (tied and name == "lm_head.weight")  # noqa: E731
    if unexpected := [name for name in stored if name not in expected and not ignored(name)]:
        raise InputError(
            f"{folder} has {_some(unexpected)}, which config.json does not describe: give the model's own config.json."
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


ROWS = 2**12  # of a tensor that are compared at once, so that wider copies of them stay small


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """How the weights that an export wrote differ from the original model's: after rounding to `dtype`, and compared in the wider
    of the two dtypes. The change of a tensor is |new - old| / |old|, in the Frobenius norm."""

    dtype: str
    total_weights: int = 0
    changed_weights: int = 0
    largest_change: float = 0.0
    most_changed: str = ""  # the tensor whose change is the largest

    def beside(self, name: str, new: np.ndarray, old: np.ndarray) -> "ExportReport":
        """With one more tensor."""
        changed, squares, both = 0, np.zeros(2), np.promote_types(new.dtype, old.dtype)
        for start in range(0, len(new), ROWS):
            ours, theirs = (x[start : start + ROWS] for x in (new, old))
            changed += int(np.count_nonzero(ours.astype(both) != theirs.astype(both)))
            ours, theirs = ours.astype(np.float32), theirs.astype(np.float32)
            squares += [np.sum(np.square(x), dtype=np.float64) for x in (ours - theirs, theirs)]
        change = math.sqrt(squares[0] / squares[1]) if squares[1] else math.inf if changed else 0.0
        largest, most_changed = max((self.largest_change, self.most_changed), (change, name))
        return ExportReport(self.dtype, self.total_weights + new.size, self.changed_weights + changed, largest, most_changed)

    def __str__(self) -> str:
        said = f"{self.changed_weights:,} of {self.total_weights:,} weights "
        said += f"({self.changed_weights / self.total_weights:.1%}) differ from the original model's in {self.dtype}"
        if self.changed_weights:
            said += f"; the largest relative change of a tensor is {self.largest_change:.2g}, of {self.most_changed}"
        return said


def save_hf(
    params: Params,
    out_dir: Path | str,
    *,
    model: Model,
    family: Family,
    source_dir: Path,
    dtype: str,
    model_card: Callable[[ExportReport], str],
    max_shard_bytes: int = 2 * 10**9,
) -> ExportReport | None:
    """Writes a folder that transformers reads: safetensors in `dtype` ("bfloat16", "float32"), config, tokenizer, model card.

    `source_dir` is the model that the parameters came from; its tokenizer files and generation config are copied, its weights
    compared. `params`: what was trained, in float32, with what adapters change (`adapters.changes`). All else is as `source_dir`
    has it, and is read from there tensor by tensor, so that no device holds a merged model. `model_card` is called in the first
    process.
    On several hosts each must call this; the first one writes, the others return None. Errors: as in `check_export_dir`.
    """
    tensors = _exported(params, model, family.weights(model.config), source_dir)
    written = {"model": model, "family": family, "source_dir": source_dir, "dtype": dtype, "model_card": model_card}
    return save_tensors(tensors, out_dir, **written, max_shard_bytes=max_shard_bytes)


def save_tensors(
    tensors: Iterator[tuple[str, np.ndarray]],
    out_dir: Path | str,
    *,
    model: Model,
    family: Family,
    source_dir: Path,
    dtype: str,
    model_card: Callable[[ExportReport], str],
    max_shard_bytes: int = 2 * 10**9,
) -> ExportReport | None:
    """As `save_hf`, for tensors that come one by one, by the names and in the order of `weight_table.in_order`."""
    out_dir, table = path_of(out_dir), family.weights(model.config)
    processes.on_first(lambda: check_export_dir(out_dir))
    if not processes.first():
        collections.deque(tensors, maxlen=0)  # takes part in the gathers, keeps nothing
        return None
    stored, _ = text_model(catalogue(source_dir))
    counts = {name: math.prod(place.hf_shape) for name, place, _ in in_order(model, table)}
    files = _plan({name: n * jnp.dtype(dtype).itemsize for name, n in counts.items()}, max_shard_bytes)
    last = {file: name for name, file in files.items()}
    shard, report = {}, ExportReport(dtype)
    with whole_folder(out_dir) as partial:
        for name, tensor in processes.progress(tensors, desc="export", unit="tensor", delay=2, total=len(counts)):
            shard[name] = tensor.astype(dtype)
            report = report.beside(name, shard[name], stored[name][(slice(None),) * tensor.ndim])
            if name == last[files[name]]:
                with written_locally(partial / files[name]) as file:
                    save_file(shard, file, metadata={"format": "pt"})
                shard = {}
        if len(last) > 1:
            _write_json(partial / INDEX, {"metadata": _totals(counts, dtype), "weight_map": files})
        _write_sidecars(partial, source_dir, dtype, model_card(report))
    return report


def _exported(params: Params, model: Model, table: tuple[Weight, ...], source_dir: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name, tensor) of what was trained, of what adapters change, and of what stayed as it was, in Hugging Face's layout. Every
    process must run the whole iteration, but only the first one reads files and gets all tensors."""
    stored = text_model(catalogue(source_dir))[0] if processes.first() else {}
    is_adapted = lambda x: isinstance(x, Adapted)  # noqa: E731
    params = jax.tree.map(lambda x: jax.tree.map(to_host, x) if is_adapted(x) else x, params, is_leaf=is_adapted)
    for name, place, layer in in_order(model, table):
        trained, number = in_stack(params, place.weight.ours, layer, model.config.layers)
        if trained is not None and not is_adapted(trained):
            yield name, hf_tensor(trained, place, number)
        elif processes.first():
            tensor = stored[name][(slice(None),) * len(place.hf_shape)]
            if isinstance(trained, Adapted):
                assert layer is not None, "only the layers' projections have adapters"
                tensor = tensor.astype(np.float32) + place.export_tensor(change(trained, layer))
            yield name, tensor


def _plan(sizes: dict[str, int], max_bytes: int) -> dict[str, str]:
    """Tensor -> file, in order, each file as full as `max_bytes` allows but never empty."""
    shards, room = [[]], max_bytes
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = max_bytes
        shards[-1].append(name)
        room -= size
    if len(shards) == 1:
        return dict.fromkeys(sizes, "model.safetensors")
    return {name: f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i, shard in enumerate(shards, 1) for name in shard}


def _totals(counts: dict[str, int], dtype: str) -> dict[str, int]:
    total = sum(counts.values())
    return {"total_parameters": total, "total_size": total * jnp.dtype(dtype).itemsize}


def _write_sidecars(folder: Path, source_dir: Path, dtype: str, model_card: str) -> None:
    """Everything but the weights, config.json last: without it nothing takes the folder for a model."""
    for name in ("generation_config.json", *hub.TOKENIZER_FILES):
        if (source_dir / name).is_file():
            paths.copy(source_dir / name, folder / name)
    (folder / "README.md").write_text(model_card, encoding="utf-8")
    _write_json(folder / "config.json", write_config(build(source_dir)[2], dtype))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
