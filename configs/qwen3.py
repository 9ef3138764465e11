"""Qwen3-8B, aligned with multilingual reward-gap MPO, with Llama's settings of arXiv:2505.16869, Table 8.

    python -m mpo_jax.train --config=configs/qwen3.py             # our defaults; also :paper

MPO's authors trained no model of this family, so the chat format is the tokenizer's own, and `:official` does not exist. The data
file is `data/llama_mpo_data.json` of the authors' repository (github.com/circle-hit/MPO), whose answers are a Llama's: answers of
the model itself would be nearer to it. Our defaults hold out a tenth of its prompts; `:paper` trains on all of them.
Answers are trained and written without thinking.
Needs a TPU slice or GPUs with room for 8B parameters in training: 16 bytes per parameter for float32 masters and
moments and for bfloat16 weights and gradients, plus a bfloat16 reference.
"""

from mpo_jax import losses
from mpo_jax.data.dataset import DataConfig
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.optim import OptimConfig
from mpo_jax.training.variants import variant_of


def get_config(variant: str | None = None) -> TrainConfig:
    config = TrainConfig(
        model="Qwen/Qwen3-8B",
        data=DataConfig(path="llama_mpo_data.json", template="hf", eval_fraction=0.1, allow_empty_prompt=True),
        output="runs/qwen3",
        loss=losses.Mpo(beta=1.0),
        optim=OptimConfig(peak_lr=6e-7),
    )
    return variant_of(config, variant)
