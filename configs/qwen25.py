"""Qwen2.5-7B-Instruct, aligned with multilingual reward-gap MPO as in arXiv:2505.16869 (Qwen's settings, Table 8).

    python -m mpo_jax.train --config=configs/qwen25.py             # our defaults; also :official and :paper

The data file is `data/qwen_mpo_data.json` of the authors' repository (github.com/circle-hit/MPO), with 8 rows per update; its
dominant language is Chinese. Our defaults hold out a tenth of its prompts; `:official` and `:paper` train on all of them.
Needs a TPU slice or GPUs with room for 7B parameters in training: 16 bytes per parameter for float32 masters and
moments and for bfloat16 weights and gradients, plus a bfloat16 reference.
"""

from mpo_jax import losses
from mpo_jax.data.dataset import DataConfig
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.optim import OptimConfig
from mpo_jax.training.variants import variant_of


def get_config(variant: str | None = None) -> TrainConfig:
    config = TrainConfig(
        model="Qwen/Qwen2.5-7B-Instruct",
        data=DataConfig(path="qwen_mpo_data.json", eval_fraction=0.1, allow_empty_prompt=True),
        output="runs/qwen25",
        loss=losses.Mpo(beta=1.5),
        optim=OptimConfig(peak_lr=6e-7),
    )
    return variant_of(config, variant)
