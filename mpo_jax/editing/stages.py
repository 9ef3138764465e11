"""Which stage of an edit reads what? First what enters the MLPs, from one forward pass; then the edits, from these files alone.

OUT/inputs/settings.json              the model, the prompts and all else that determines the inputs
OUT/inputs/layer_000.safetensors      what enters this layer's MLP, float32 (N, D) of harmful/LANGUAGE and harmless/LANGUAGE
OUT/model/                            the edited checkpoint with its card
OUT/neurons.json, OUT/overlap.png     how many safety neurons each language has, and how many two languages share

The forward pass needs the model's products, on a slice perhaps; the edits need a CPU, and can be made again with other settings.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from mpo_jax.checkpoints.hugging_face import ExportReport, save_tensors
from mpo_jax.checkpoints.safetensors_files import catalogue, text_model
from mpo_jax.data.prompts.base import Prompt
from mpo_jax.devices import processes
from mpo_jax.editing.card import card
from mpo_jax.editing.layer_edit import MATRICES, EditConfig, Inputs, MatrixEdit, edit_layer
from mpo_jax.editing.mlp_inputs import Forward
from mpo_jax.editing.neurons import overlap
from mpo_jax.errors import InputError
from mpo_jax.files.json_files import differences, write_json
from mpo_jax.files.paths import read_locally, written_locally
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.base import Family
from mpo_jax.models.layers import ACTIVATIONS
from mpo_jax.models.weight_table import Place, in_order
from mpo_jax.telemetry.plots import plot_matrix

KINDS = ("harmful", "harmless")
Asked = Mapping[str, Mapping[str, Sequence[Prompt]]]  # kind -> language -> prompts


def by_language(harmful: Sequence[Prompt], harmless: Sequence[Prompt], languages: Sequence[str]) -> Asked:
    """The prompts of each kind and language, the dominant one first. The harmful ones are parallel: those of one id say the same.
    Errors: a harmful prompt that a language lacks; fewer than two prompts of a kind in a language."""
    asked: dict[str, dict[str, list[Prompt]]] = {}
    for kind, prompts in zip(KINDS, (harmful, harmless), strict=True):
        asked[kind] = {language: [p for p in prompts if p.language == language] for language in languages}
    of_id = {language: {p.id: p for p in prompts} for language, prompts in asked["harmful"].items()}
    first = languages[0]
    for language, found in of_id.items():
        if odd := sorted(of_id[first].keys() ^ found.keys()):
            lacks = language if odd[0] in of_id[first] else first
            raise InputError(
                f"The harmful prompt '{odd[0]}' is missing in '{lacks}', and {len(odd)} ids in all are not in both '{first}' and "
                f"'{language}': give parallel prompts, the same ids in every language."
            )
        asked["harmful"][language] = [found[id] for id in of_id[first]]
    for kind, of_kind in asked.items():
        for language, prompts in of_kind.items():
            if len(prompts) < 2:
                raise InputError(f"There are {len(prompts)} {kind} prompts in '{language}': give at least two of each language.")
    return asked


def digest(prompts: Sequence[np.ndarray]) -> str:
    """Of the tokens of prompts, in their order, and how many these are."""
    named = hashlib.blake2b(b"".join(len(ids).to_bytes(8, "little") + ids.tobytes() for ids in prompts), digest_size=8)
    return f"{len(prompts)} with digest {named.hexdigest()}"


@dataclasses.dataclass(frozen=True)
class Edit:
    """What is edited, in which folder."""

    output: Path
    inputs: Path  # OUT/inputs, or those of another run
    model_dir: Path
    model: Model
    family: Family

    def read_inputs(self, forward: Forward, tokens: Mapping[str, Mapping[str, Sequence[np.ndarray]]], settings: dict[str, Any]):
        """Writes what `inputs` lacks. Every process calls it. Errors: a folder of other settings."""
        processes.on_first(lambda: _prepare(self.inputs, settings))
        if all(self._layer_file(layer).is_file() for layer in range(self.model.config.layers)):
            processes.say(f"{self.inputs} has the inputs of all layers: nothing is read again")
            return
        named = [(f"{kind}/{language}", ids) for kind, of_kind in tokens.items() for language, ids in of_kind.items()]
        ends = np.cumsum([len(ids) for _, ids in named])[:-1]
        for layer, inputs_ND in enumerate(forward.mlp_inputs([one for _, ids in named for one in ids])):
            if processes.first():
                parts = dict(zip((name for name, _ in named), np.split(inputs_ND, ends), strict=True))
                with written_locally(self._layer_file(layer)) as file:
                    save_file(parts, file)

    def write_model(self, config: EditConfig, layers: Sequence[int], about: dict[str, Any]) -> ExportReport | None:
        """Writes the edited model, what is known of its neurons, and the card. Every process calls it; the first one edits and
        writes, the others return None. Errors: those of `edit_layer`, naming the layer; those of an export."""
        known: dict[int, dict[str, MatrixEdit]] = {}
        stored, _ = text_model(catalogue(self.model_dir))
        tensors = list(in_order(self.model, self.family.weights(self.model.config)))
        gate = next(name for name, place, _ in tensors if place.weight.ours == "layers.mlp.gate")
        written = save_tensors(
            self._edited(tensors, stored, config, set(layers), known) if processes.first() else iter(()),
            self.output / "model",
            model=self.model,
            family=self.family,
            source_dir=self.model_dir,
            dtype="bfloat16" if stored[gate].dtype == "BF16" else "float32",
            model_card=lambda _: card(about, config, known),
        )
        if written is not None:
            self._say_neurons(known)
        return written

    def _edited(
        self,
        tensors: list[tuple[str, Place, int | None]],
        stored: Mapping[str, Any],
        config: EditConfig,
        layers: set[int],
        known: dict[int, dict[str, MatrixEdit]],
    ) -> Iterator[tuple[str, np.ndarray]]:
        """The tensors of the edited model, in order. A layer is edited when its first tensor is due; what was done goes into
        `known`."""
        places = {(layer, place.weight.ours): (name, place) for name, place, layer in tensors}
        edited: dict[str, np.ndarray] = {}
        for name, _, layer in tensors:
            if layer in layers and layer not in known:
                weights, of = {}, {}
                for matrix in MATRICES:
                    of[matrix], place = places[layer, f"layers.mlp.{matrix}"]
                    weights[matrix] = place.import_tensor(stored[of[matrix]][:, :])
                try:
                    known[layer] = edit_layer(weights, self._inputs(layer), config, self._activation)
                except InputError as error:
                    raise InputError(f"Layer {layer}: {error}") from None
                for matrix, edit in known[layer].items():
                    place = places[layer, f"layers.mlp.{matrix}"][1]
                    edited[of[matrix]] = place.export_tensor(edit.applied(weights[matrix]))
            yield name, edited.pop(name) if name in edited else stored[name][(slice(None),) * len(stored[name].shape)]

    def _inputs(self, layer: int) -> Inputs:
        with read_locally(self.inputs, [self._layer_file(layer).name]) as folder:
            arrays = load_file(folder / self._layer_file(layer).name)
        of_kind = lambda kind: {n.removeprefix(f"{kind}/"): x for n, x in arrays.items() if n.startswith(f"{kind}/")}  # noqa: E731
        languages = json.loads((self.inputs / "settings.json").read_text(encoding="utf-8"))["languages"]
        harmful, harmless = (of_kind(kind) for kind in KINDS)
        return Inputs(*({language: of[language] for language in languages} for of in (harmful, harmless)))

    def _activation(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(jax.device_get(ACTIVATIONS[self.model.config.activation](jnp.asarray(x, jnp.float32))))

    def _say_neurons(self, known: Mapping[int, Mapping[str, MatrixEdit]]) -> None:
        """neurons.json: of each layer and matrix the number of each language's neurons and the edited ones; overlap.png: how many
        two languages share, on average."""
        lines = [
            {
                "layer": layer,
                "matrix": matrix,
                "neurons": {language: int(mask.sum()) for language, mask in edit.of_language.items()},
                "overlap": overlap(edit.of_language).round(4).tolist(),
            }
            for layer, edits in known.items()
            for matrix, edit in edits.items()
        ]
        languages = list(lines[0]["neurons"])
        mean = np.mean([line["overlap"] for line in lines], axis=0)
        write_json(self.output / "neurons.json", {"languages": languages, "mean_overlap": mean.tolist(), "layers": lines})
        plot_matrix(mean, languages, self.output / "overlap.png", "Safety neurons that two languages share (Jaccard's index)")

    def _layer_file(self, layer: int) -> Path:
        return self.inputs / f"layer_{layer:03d}.safetensors"


def _prepare(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "settings.json"
    if path.is_file():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is not JSON ({error}): give another --output, or --inputs.") from None
        if found := differences(kept, json.loads(json.dumps(settings))):
            raise InputError(f"{folder} belongs to other settings ({'; '.join(found)}): give another --output, or --inputs.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)
