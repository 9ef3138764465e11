"""A random checkpoint of a family in Hugging Face's layout, small but with a real tokenizer and its whole vocabulary.

python tests/make_small.py FAMILY TOKENIZER_DIR OUT_DIR --vocab N [--hidden N --layers N --heads N --ffn N]
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import numpy as np
from safetensors.numpy import save_file

from mpo_jax.models.families.registry import build
from mpo_jax.models.weight_table import export_tree

ARCHITECTURES = {"llama": "LlamaForCausalLM", "gemma2": "Gemma2ForCausalLM", "qwen2": "Qwen2ForCausalLM"}


def make(
    family: str, tokenizer_dir: Path, out: Path, *, vocab: int, hidden: int = 64, layers: int = 2, heads: int = 8, ffn: int = 128
) -> None:
    out.mkdir(parents=True)
    config = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "max_position_embeddings": 4096,
        "torch_dtype": "float32",
    }
    config |= {
        "llama": {"rope_theta": 500000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "hidden_act": "silu"},
        "qwen2": {"rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "hidden_act": "silu"},
        "gemma2": {
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": 1e-6,
            "query_pre_attn_scalar": hidden // heads,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "sliding_window": 256,
            "tie_word_embeddings": True,
        },
    }[family]
    if family == "qwen2":
        config.pop("head_dim")
    (out / "config.json").write_text(json.dumps(config, indent=1))
    built, model, _ = build(out)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x, axes: (
            np.full(x.shape, 1.0 - model.config.norm_offset, np.float32)
            if axes[-1] == "norm"
            else (0.05 * random.standard_normal(x.shape)).astype(np.float32)
        ),
        model.abstract(),
        model.axes(),
    )
    params = jax.tree.map(jax.numpy.asarray, params)
    save_file(dict(export_tree(params, model, built.weights(model.config))), out / "model.safetensors", metadata={"format": "pt"})
    for path in tokenizer_dir.iterdir():
        if path.suffix in (".json", ".txt", ".jinja"):
            shutil.copyfile(path, out / path.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=list(ARCHITECTURES))
    parser.add_argument("tokenizer_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocab", type=int, required=True)
    for name, default in (("hidden", 64), ("layers", 2), ("heads", 8), ("ffn", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    make(**vars(parser.parse_args()))
