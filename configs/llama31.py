"""Llama-3.1-8B-Instruct, aligned with multilingual reward-gap MPO as in arXiv:2505.16869 (Llama's settings, Table 8).

    python -m mpo_jax.train --config=configs/llama31.py            # our defaults
    python -m mpo_jax.train --config=configs/llama31.py:official   # tokens, pooling and truncation of the authors' code
    python -m mpo_jax.train --config=configs/llama31.py:paper      # hidden-state loss and length as printed in the paper

The data file is `data/llama_mpo_data.json` of the authors' repository (github.com/circle-hit/MPO): 600 rows = 100 English
prompts x 6 languages, of which row 505 has an empty prompt. Our defaults hold out 10 of the prompts: 540 rows to train on, 8 an
update, make 68 updates an epoch, 136 in all. The variants train on all rows: 75 an epoch, 150 in all.
Needs a TPU slice or GPUs for 8B parameters with float32 masters and moments: 16 bytes a parameter plus a bfloat16 reference.
With --config.reference=cached --config.optim.moments_dtype=bfloat16 it is compiled to fit a TPU v5e:2x4 (docs/tpu.md).
"""

from mpo_jax import losses
from mpo_jax.data.dataset import DataConfig
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.optim import OptimConfig
from mpo_jax.training.variants import variant_of


def get_config(variant: str | None = None) -> TrainConfig:
    config = TrainConfig(
        model="meta-llama/Llama-3.1-8B-Instruct",
        data=DataConfig(path="llama_mpo_data.json", eval_fraction=0.1, allow_empty_prompt=True),
        output="runs/llama31",
        loss=losses.Mpo(beta=1.0),
        optim=OptimConfig(peak_lr=6e-7),
    )
    return variant_of(config, variant)
