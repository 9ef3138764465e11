"""The text model of a model with text and images is read as if it were alone, and what lies beside it is left alone."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from mpo_jax.checkpoints.hugging_face import load_params, save_hf
from mpo_jax.errors import InputError
from mpo_jax.models.families.registry import build

FIXTURE = Path(__file__).parent.parent / "fixtures" / "gemma3_text"
VISION = "vision_tower.vision_model.embeddings.patch_embedding.weight"
LAYOUTS = {  # how a tensor of the text model, and one beside it, is called
    "published": ("language_model.{}", "{}"),
    "newer": ("{}", "model.{}"),
}


def with_images(folder: Path, layout: str) -> Path:
    """The fixture as the text model of a larger one."""
    of_text, of_vision = LAYOUTS[layout]
    named = {of_text.format(name): tensor for name, tensor in load_file(FIXTURE / "model.safetensors").items()}
    if layout == "newer":
        named = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in named.items()}
    named[of_vision.format(VISION)] = np.ones((3, 2, 2, 2), np.float32)
    text = json.loads((FIXTURE / "config.json").read_text())
    del text["architectures"]
    folder.mkdir()
    save_file(named, folder / "model.safetensors")
    whole = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 2}, "eos_token_id": [1, 106]}
    (folder / "config.json").write_text(json.dumps(whole | {"architectures": ["Gemma3ForConditionalGeneration"]}))
    return folder


def load(folder: Path):
    family, model, _ = build(folder)
    return family, model, load_params(folder, model, family, tiny.mesh())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_text_model_is_read_and_written_as_if_it_were_alone(tmp_path, capsys, layout):
    folder = with_images(tmp_path / "whole", layout)
    (folder / "consolidated.safetensors").write_bytes(b"no tensors")
    (folder / "original").mkdir()
    family, model, params = load(folder)
    said = capsys.readouterr().out
    assert said.count("left alone") == 1
    assert all(name in said for name in (VISION, "consolidated.safetensors", "original/"))
    alone_family, alone, expected = load(FIXTURE)
    assert (family, model) == (alone_family, alone)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert "left alone" not in capsys.readouterr().out

    out = tmp_path / "out"
    report = save_hf(
        params, out, model=model, family=family, source_dir=folder, dtype="float32", model_card=lambda _: "# A model\n"
    )
    assert report is not None and report.changed_weights == 0
    written, original = load_file(out / "model.safetensors"), load_file(FIXTURE / "model.safetensors")
    assert written.keys() == original.keys()
    assert all(np.array_equal(written[name], original[name]) for name in original)
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("gemma3_text", ["Gemma3ForCausalLM"])
    assert config["eos_token_id"] == [1, 106] and "vision_config" not in config
    assert build(out)[:2] == (family, model)


def test_a_model_without_its_text_config_is_a_sentence(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3"}))
    with pytest.raises(InputError, match="'gemma3', but no 'text_config'"):
        build(tmp_path)


def test_another_layout_without_ours_is_a_sentence(tmp_path):
    shutil.copy(FIXTURE / "config.json", tmp_path)
    shutil.copy(FIXTURE / "model.safetensors", tmp_path / "consolidated.safetensors")
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        load(tmp_path)


def test_transformers_reads_what_is_exported_of_its_own_model(tmp_path):
    torch = pytest.importorskip("torch")
    import hf_models
    import transformers as tf

    vision = dict(
        model_type="siglip_vision_model", hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        image_size=28, patch_size=14,
    )  # fmt: skip
    text = hf_models.config("gemma3_text", True).to_dict()
    torch.manual_seed(0)
    whole = tf.Gemma3ForConditionalGeneration(tf.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1))
    whole.eval().save_pretrained(tmp_path / "whole")
    family, model, params = load(tmp_path / "whole")
    given = {"dtype": "float32", "model_card": lambda _: "# A model\n"}
    save_hf(params, tmp_path / "out", model=model, family=family, source_dir=tmp_path / "whole", **given)
    alone = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert isinstance(alone, tf.Gemma3ForCausalLM)
    ids = torch.arange(24)[None]
    with torch.no_grad():
        np.testing.assert_allclose(alone(ids).logits, whole(ids).logits, atol=1e-5)
